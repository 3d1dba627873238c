#!/usr/bin/env bats
# evaluate logits, heal --teacher-logits: a teacher's largest logits in a file, and what is distilled from it.

load shared

# `llama` has a model of tests/tools/heal_models.sh, healed with the top 20; `tiny` the real one, cut.
setup_file() {
    heal_models llama kl 20
    mkdir ../tiny
    cd ../tiny || exit 1
    ln -s "$TOP/pipelines/models/stories260K" model
    extract-layer model | mpo-decompose -q --keep 0.5 -o cut.tns
    printf '%s\n' '{"text": "Once upon a time, there was a little girl named Lily. She had a big red ball."}' \
        '{"text": "Tom saw a dog in the park. The dog was sad, so Tom gave it his ball and they played all day."}' >text
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    made=$BATS_FILE_TMPDIR/llama tiny=$BATS_FILE_TMPDIR/tiny
}

tiny() {
    heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --batch 2 --steps 10 "$@"
}

# Made by tests/oracles/heal_oracle.py --print with torch 2.15.0, transformers 5.24.0 in double precision.
llama_kl_20='0.156104 0.139553 0.113761 0.093966 0.081482 0.072396 0.066613 0.062119 0.058744 0.056171 0.053934 0.051869 0.050025 0.048486 0.047275 0.046368 0.045723 0.045297 0.045048 0.044934'
granite_mix_100='1.869321 1.869189 1.868926 1.868536 1.868155 1.867786 1.867431 1.867095 1.866780 1.866489 1.866226 1.865993 1.865792 1.865623 1.865488 1.865384 1.865310 1.865261 1.865232 1.865220'

@test "20 steps on the top 20 logits and one outcome for the rest have PyTorch's losses" {
    losses 1e-4 "$made/log" "$llama_kl_20"
    tensor-info "$made/healed.tns" | grep 'made by heal.*"teacher_logits":{"name":"logits","top":20,"hash":"'
}

@test "20 steps of granite on the top 100 logits and the text have PyTorch's losses" {
    bash "$TOP/tests/tools/heal_models.sh" granite mix 100
    losses 1e-4 log "$granite_mix_100"
}

@test "all logits are the whole teacher, in f16 nearly" {
    evaluate logits -q "$tiny/model" "$tiny/text" --top 512 --context 16 -o logits
    evaluate logits -q "$tiny/model" "$tiny/text" --top 512 --context 16 --dtype f16 -o halves
    [ "$(stat -c %s halves)" -lt "$(stat -c %s logits)" ]
    for loss in kl mix; do
        tiny --loss $loss --teacher "$tiny/model" --log whole -o out.tns
        tiny --loss $loss --teacher-logits logits --log log -o out.tns
        losses 1e-4 log whole
        tiny --loss $loss --teacher-logits halves --log log -o out.tns
        losses 2e-3 log whole
    done
}

@test "the file: the largest logits, their probabilities, and that of the rest, of each token that counts" {
    evaluate logits "$tiny/model" "$tiny/text" --top 7 --context 16 -o logits 2>said
    grep -q '^evaluate: the top 7 logits of [0-9]* tokens in [0-9]* windows of 16; other ids have 0.[0-9]* of' said
    evaluate logits -q "$tiny/model" "$tiny/text" --top 512 --context 16 -o all
    "$PYTHON" - "$TOP/tests" <<'CHECK'
import sys
import numpy as np
sys.path.append(sys.argv[1])
import stream_python
few, every = ([stream_python.decode(r) for r in stream_python.read_stream(open(name, "rb").read())[1]]
              for name in ("logits", "all"))
assert len(few) == len(every) and len(few) % 3 == 0 and len(few) >= 9
for ids, log_p, rest, all_ids, p, none in zip(*(x[i::3] for x in (few, every) for i in range(3))):
    assert (all_ids == np.arange(512)).all() and not none.any()
    assert np.allclose(np.exp(p.astype("f8")).sum(1), 1, atol=1e-5)
    order = np.sort(np.argsort(-p, axis=1, kind="stable")[:, :7], axis=1)
    assert (ids == order).all()
    assert np.allclose(log_p, np.take_along_axis(p, order, 1), atol=1e-5)
    assert np.allclose(rest, 1 - np.exp(log_p.astype("f8")).sum(1), atol=1e-5)
CHECK
    evaluate logits -q "$tiny/model" "$tiny/text" --top 7 --context 16 --threads 3 --memory 0 -o again
    cmp logits again
    extract-layer "$tiny/model" | evaluate logits -q - "$tiny/text" --top 7 --context 16 >piped
    cmp <(tensor-info logits | grep window) <(tensor-info piped | grep window)
}

@test "windows come in any order: batches, seeds, threads, kills" {
    evaluate logits -q "$tiny/model" "$tiny/text" --top 9 --context 16 -o logits
    tiny --teacher-logits logits --log log --threads 1 -o out.tns
    tiny --teacher-logits logits --batch 1 --accumulate 2 --log parts -o parts.tns
    losses 1e-5 parts log
    tiny --teacher-logits logits --threads 3 -o threads.tns
    cmp out.tns threads.tns
    tiny --teacher-logits logits --seed 5 --log other -o other.tns
    losses 1e-3 other log && false
    tiny --teacher-logits logits --checkpoint-every 3 --work work -o /dev/full && false
    rm work/checkpoint-00000009
    tiny --teacher-logits logits --checkpoint-every 3 --work work -o again.tns
    cmp out.tns again.tns
    tiny --teacher-logits logits --checkpoint-every 3 --work work -o /dev/full && false
    evaluate logits -q "$tiny/model" "$tiny/text" --top 8 --context 16 -o logits
    refuses 64 'another model, text or other options' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --batch 2 --steps 10 \
        --teacher-logits logits --work work -o out.tns
    refuses 64 'another model, text or other options' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --batch 2 --steps 10 \
        --teacher "$tiny/model" --work work -o out.tns
}

@test "of conversations the answers only, or all" {
    echo '{"messages": [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "It was Lily."}]}' >talk.jsonl
    options=(--context 32 --template chatml)
    evaluate logits -q "$tiny/model" talk.jsonl "${options[@]}" --top 512 -o logits
    for teacher in "--teacher $tiny/model" '--teacher-logits logits'; do
        # shellcheck disable=SC2086
        heal -q "$tiny/cut.tns" talk.jsonl "${options[@]}" --batch 3 --steps 3 $teacher --log "log.${teacher%% *}" -o out.tns
    done
    losses 1e-4 log.--teacher log.--teacher-logits
    refuses 65 'another text, or for another tokenizer, template or choice of answers' heal -q "$tiny/cut.tns" talk.jsonl "${options[@]}" \
        --all --teacher-logits logits
    evaluate logits -q "$tiny/model" talk.jsonl "${options[@]}" --all --top 5 -o logits
    heal -q "$tiny/cut.tns" talk.jsonl "${options[@]}" --all --teacher-logits logits --batch 1 --steps 1 -o out.tns
}

@test "no teacher is loaded, and the plan says so" {
    evaluate logits -q "$tiny/model" "$tiny/text" --top 3 --context 16 -o logits
    run heal "$tiny/cut.tns" "$tiny/text" --context 16 --batch 2 --steps 1 --teacher-logits logits -o out.tns
    [[ $output == *'memory: '*' MiB: weights '*', no teacher but the top 3 of its logits, from a file, '* ]]
}

@test "logits of another text, context or vocabulary are refused" {
    evaluate logits -q "$tiny/model" "$tiny/text" --top 3 --context 16 -o logits
    refuses 65 "logits of windows of --context 16, expected 8" heal -q "$tiny/cut.tns" "$tiny/text" --context 8 --teacher-logits logits
    head -1 "$tiny/text" >other
    refuses 65 'logits of a text whose tokens are' heal -q "$tiny/cut.tns" other --context 16 --teacher-logits logits
    sed 's/Lily/Lucy/;s/Tom/Tim/' "$tiny/text" >other
    evaluate logits -q "$tiny/model" other --top 3 --context 16 -o others
    refuses 65 'logits of' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits others
    "$PYTHON" "$TOP/tests/tools/random_model.py" wide --set vocab_size=520
    cp "$tiny/model/tokenizer.json" wide/
    evaluate logits -q wide "$tiny/text" --top 3 --context 16 -o others
    refuses 65 'a vocabulary of 520 tokens, expected 512' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits others
    refuses 65 'not a file of logits' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits "$tiny/cut.tns"
    refuses 65 'not a tensor stream' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits "$tiny/text"
    refuses 66 'nowhere' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits nowhere
    refuses 64 'from a file only' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits <(cat logits)
}

@test "a damaged file is refused, whatever is wrong with it" {
    evaluate logits -q "$tiny/model" "$tiny/text" --top 3 --context 16 -o logits
    size=$(stat -c %s logits)
    for cut in $((size - 1)) $((size / 2)) 500 10; do
        head -c "$cut" logits >bad
        refuses 65 'bad' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits bad
    done
    cp logits bad
    printf x | dd of=bad bs=1 seek=$((size / 2)) conv=notrunc status=none
    refuses 65 'bad' heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits bad
    "$PYTHON" - "$TOP/tests" <<'MAKE'
import sys
import numpy as np
sys.path.append(sys.argv[1])
import stream_python
header, records = stream_python.read_stream(open("logits", "rb").read())

def write(name, change):
    changed = [dict(r, shape=list(r["shape"])) for r in records]
    for r in changed:
        r["values"] = stream_python.decode(r).copy()
    change(changed)
    for r in changed:
        r["payload"] = r.pop("values").tobytes()
    open(name, "wb").write(stream_python.write_stream(header, changed))

def put(index, value):
    def change(changed):
        changed[index]["values"].flat[4] = value
    return change

write("same", lambda changed: None)
assert open("same", "rb").read() == open("logits", "rb").read()
write("below", put(0, -1))
write("beyond", put(0, 512))
write("twice", lambda changed: put(0, changed[0]["values"].flat[3])(changed))
write("nan", put(1, np.nan))
write("nothing", put(1, -np.inf))
write("positive", put(1, 1))
write("rest", put(2, -0.5))
write("missing", lambda changed: changed.pop())
write("more", lambda changed: changed.append(dict(changed[-1], name="window.9999999999.rest")))

def fewer(changed):
    for r in changed[:3]:
        r["shape"][0] -= 1
        r["values"] = r["values"][:-1]
        r["bytes"] = r["values"].nbytes
write("fewer", fewer)

def wider(changed):
    changed[0]["dtype"] = "i64"
    changed[0]["values"] = changed[0]["values"].astype("i8")
    changed[0]["bytes"] = changed[0]["values"].nbytes
write("wider", wider)
MAKE
    for bad in 'below:id -1 where' 'beyond:id 512 where' 'twice:where ascending ones' 'nan:sum to nan' 'nothing:probabilities sum' \
        'positive:probabilities sum' 'rest:of it for other ids' "missing:'end', 0 rows, where" 'more:behind the last' \
        'fewer:of 16 is due' 'wider:other dtypes'; do
        refuses 65 "${bad#*:}" heal -q "$tiny/cut.tns" "$tiny/text" --context 16 --teacher-logits "${bad%%:*}"
    done
}

@test "misuse of either is refused" {
    refuses 64 'one of them is the teacher' heal x y --teacher z --teacher-logits l
    refuses 64 'no use for --teacher-logits' heal x y --loss ce --teacher-logits l
    refuses 64 "can't come from standard input" heal x y --teacher-logits -
    refuses 64 'evaluate logits MODEL DATA...' evaluate logits "$tiny/model"
    refuses 64 "--top doesn't belong to perplexity" evaluate perplexity "$tiny/model" "$tiny/text" --top 3
    echo 'Once upon a time there was a girl.' >plain
    refuses 64 "--limit: no JSON documents in" evaluate logits -q "$tiny/model" plain --context 16 --limit 3 -o logits
    refuses 64 'has a vocabulary of 512 tokens' evaluate logits "$tiny/model" "$tiny/text" --top 513
    refuses 64 'the model takes 512 at most' evaluate logits "$tiny/model" "$tiny/text" --context 513
    refuses 64 'one operand only' evaluate logits - - --top 3
    refuses 69 'GSM8K, test' evaluate logits -q "$tiny/model" "$TOP/tests/cli/data/gsm8k_test.jsonl" -o logits
    [ ! -e logits ]
}
