#!/usr/bin/env bats
# heal: losses of small models as PyTorch has them, what it writes, and what it refuses.

load shared

setup_file() {
    heal_models llama kl
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    made=$BATS_FILE_TMPDIR/llama
}

# Made by tests/oracles/heal_oracle.py --print with torch 2.15.0, transformers 5.24.0 in double precision.
llama_kl='0.551713 0.505788 0.432541 0.368969 0.328127 0.301209 0.282302 0.267734 0.256957 0.247981 0.240150 0.233246 0.227115 0.221756 0.217283 0.213780 0.211233 0.209541 0.208556 0.208103'
granite_mix='1.869333 1.869201 1.868938 1.868549 1.868168 1.867799 1.867445 1.867110 1.866795 1.866505 1.866242 1.866010 1.865809 1.865642 1.865507 1.865403 1.865329 1.865280 1.865252 1.865239'
qwen3_ce='6.922521 6.825856 6.636250 6.391794 6.196468 6.029815 5.884363 5.757858 5.648129 5.552644 5.469085 5.395953 5.332742 5.279609 5.236617 5.203362 5.179082 5.162778 5.153192 5.148765'

@test "20 steps of llama, distilled, have PyTorch's losses" {
    losses 1e-4 "$made/log" "$llama_kl"
}

@test "20 steps of granite, distilled and on the text, have PyTorch's losses" {
    bash "$TOP/tests/tools/heal_models.sh" granite mix
    losses 1e-4 log "$granite_mix"
}

@test "20 steps of qwen3 on the text have PyTorch's losses" {
    bash "$TOP/tests/tools/heal_models.sh" qwen3 ce
    losses 1e-4 log "$qwen3_ce"
}

# One step from the healed model costs what the last one did: scales and 8-bit cores were rounded since.
@test "what was learnt is in the model, and nothing else changed" {
    heal -q "$made/healed.tns" "$made/text" --teacher "$made/dense" --steps 1 --batch 3 --context 16 --log log -o again.tns
    losses 0.02 log 0.208103
    tensor-diff --tolerance 1 "$made/cut.tns" "$made/healed.tns" >differences
    for kept in embed_tokens lm_head 0.self_attn.o_proj; do
        [ "$(grep -c "$kept.*error" differences)" -eq 0 ]
    done
    for changed in model.norm 0.input_layernorm 2.self_attn.o_proj 2.self_attn.v_proj 1.self_attn.v_proj 1.mlp.gate_proj 1.mlp.down_proj 1.mlp.up_proj; do
        grep "$changed.*error" differences
    done
    for model in cut healed; do
        tensor-info --summary "$made/$model.tns" | grep -o '[0-9]* bytes of payload' >$model.bytes
    done
    cmp cut.bytes healed.bytes
    tensor-info "$made/healed.tns" | grep 'made by heal.*"loss":"kl"'
}

@test "any number of threads, and any memory, give the same bytes" {
    for way in '--threads 1' '--threads 3' '--memory 0' '--memory 100K'; do
        heal -q "$made/cut.tns" "$made/text" --teacher "$made/dense" --steps 2 --batch 3 --context 16 "${way% *}" "${way#* }" -o out.tns
        cmp out.tns first.tns 2>/dev/null || [ ! -e first.tns ]
        cp out.tns first.tns
    done
}

@test "batches in parts give the same losses" {
    heal -q "$made/cut.tns" "$made/text" --teacher "$made/dense" --steps 20 --batch 1 --accumulate 3 --context 16 --lr 0.003 \
        --warmup 3 --log log -o out.tns
    losses 1e-5 log "$(log_losses "$made/log")"
}

@test "classes and names choose what is trained" {
    heal -q "$made/cut.tns" "$made/text" --train norms -m 'model.layers.1.*' --steps 1 --batch 1 --context 16 -o out.tns
    tensor-diff --tolerance 1 "$made/cut.tns" out.tns | grep '  error' >differences
    [ "$(cut -d' ' -f1 differences | sort | xargs)" = \
        "model.layers.1.input_layernorm.weight model.layers.1.post_attention_layernorm.weight" ]
    heal -q "$made/cut.tns" "$made/text" --train matrices --steps 1 --batch 1 --context 16 -o out.tns
    tensor-diff --tolerance 1 "$made/cut.tns" out.tns | grep '  error' >differences
    [ "$(cut -d' ' -f1 differences | sort | xargs)" = "lm_head.weight model.layers.0.self_attn.o_proj.weight" ]
}

@test "trained cores are stored in the dtype asked for" {
    heal -q "$made/cut.tns" "$made/text" --train cores --steps 1 --batch 1 --context 16 --dtype bf16 -o out.tns
    tensor-info out.tns | grep '0.mlp.down_proj.weight .* bf16 1x32x1x9 bf16 9x1x48x1'
    tensor-info out.tns | grep '2.self_attn.o_proj.weight .* q2-16-none 1x32x32x1 + bf16 1x32x1x5 bf16 5x1x32x1'
    tensor-info out.tns | grep '0.mlp.up_proj.weight .* q4-16-min 48x32'
    heal -q "$made/cut.tns" "$made/text" --train cores --steps 1 --batch 1 --context 16 -o out.tns
    tensor-info out.tns | grep '2.self_attn.o_proj.weight .* + q8-16-none 1x32x1x5 q8-16-none 5x1x32x1'
}

@test "a loss that isn't finite stops it, and leaves nothing" {
    refuses 65 'the loss is' heal -q "$made/cut.tns" "$made/text" --steps 50 --batch 3 --context 16 --lr 1e30 --warmup 0 \
        --clip 0 --schedule constant --train cores,norms,scales -o out.tns
    [ ! -e out.tns ]
}

small() {
    heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 "$@"
}

@test "killed at any moment, it goes on to the same bytes" {
    local args=("$made/text" --teacher "$made/dense" --batch 2 --accumulate 2 --context 7 --steps 80 --checkpoint-every 2)

    heal -q "$made/cut.tns" "${args[@]}" --work whole.work -o whole.tns
    killed_and_resumed heal "$made/cut.tns" "${args[@]}"
    echo "# killed $killed times" >&3
    cmp whole.tns out.tns
    [ "$killed" -gt 1 ]
    [ "$(wc -l <work/log)" -eq 80 ]
    [ "$(log_losses work/log)" = "$(log_losses whole.work/log)" ]
    [ -z "$(find work whole.work -name 'checkpoint-*')" ]
}

@test "two checkpoints are kept; a damaged one is passed over" {
    small --steps 6 --checkpoint-every 2 -o whole.tns
    heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 --steps 6 --checkpoint-every 1 --work work -o /dev/full &&
        false
    [ "$(cd work && echo checkpoint-*)" = 'checkpoint-00000005 checkpoint-00000006' ]
    printf x | dd of=work/checkpoint-00000006 bs=1 seek=3000 conv=notrunc status=none
    run small --steps 6 --checkpoint-every 1 --work work -o out.tns
    [[ $output == *"'work/checkpoint-00000006': its checksum is"* ]]
    cmp whole.tns out.tns
}

# The limit of a file's size stands for the disk's.
@test "a full disk leaves the old checkpoint" {
    small --steps 4 --checkpoint-every 2 -o whole.tns
    small --steps 4 --checkpoint-every 2 --work work -o /dev/full && false
    rm work/checkpoint-00000004
    cp work/checkpoint-00000002 old
    run bash -c "trap '' XFSZ; ulimit -f $(($(stat -c %s old) / 2048)); exec heal -q '$made/cut.tns' '$made/text' --batch 1 \\
        --context 16 --steps 4 --checkpoint-every 2 --work work -o out.tns"
    [ "$status" -eq 74 ]
    [[ $output == *"cannot write"*"File too large"* ]]
    cmp old work/checkpoint-00000002
    [ "$(find work -name '*checkpoint*' | wc -l)" -eq 1 ]
    [ ! -e out.tns ]
    small --steps 4 --checkpoint-every 2 --work work -o out.tns
    cmp whole.tns out.tns
}

@test "a checkpoint of other options is refused" {
    heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 --steps 2 --checkpoint-every 1 --work work -o /dev/full &&
        false
    refuses 64 'another model, text or other options' small --steps 2 --checkpoint-every 1 --lr 0.1 --work work -o out.tns
    refuses 64 'another model, text or other options' small --steps 2 --seed 5 --work work -o out.tns
}

@test "tokens, epochs, a perplexity on the way" {
    small --tokens 65 -o out.tns
    [ "$(wc -l <out.tns.work/log)" -eq 5 ]
    small --epochs 2 --eval-text "$made/text" --eval-every 4 -o out.tns      # 44 tokens: three windows
    [ "$(wc -l <out.tns.work/log)" -eq 6 ]
    [ "$(grep -c perplexity out.tns.work/log)" -eq 2 ]
    evaluate perplexity out.tns "$made/text" --context 22 >report.json       # two windows
    heal -q out.tns "$made/text" --batch 1 --context 22 --steps 1 --lr 0 --eval-text "$made/text" --log log -o same.tns
    "$PYTHON" -c 'import json
ours, theirs = (json.loads(text)["perplexity"] for text in (open("log").read(), open("report.json").read()))
assert abs(ours / theirs - 1) < 1e-4, (ours, theirs)'
    refuses 64 'one of them says how long' small --tokens 5 --steps 3
    refuses 64 'needs --eval-text' small --eval-every 2
}

@test "steps that aren't finite are skipped where that is asked for" {
    run heal "$made/cut.tns" "$made/text" --steps 50 --batch 3 --context 16 --lr 1e30 --warmup 0 --clip 0 --schedule constant \
        --skip --log log -o out.tns
    [ "$status" -eq 65 ]
    [ "$(grep -c 'it is skipped' <<<"$output")" -eq 9 ]
    [ "$(grep -c '"skipped":true' log)" -eq 9 ]
}

@test "memory is planned; where there isn't enough, it says what would do" {
    run heal "$made/cut.tns" "$made/text" --steps 1 --batch 3 --context 16 -o out.tns
    [[ $output == *'memory: '*' MiB: weights '* ]]
    limits_space heal
    run bash -c "ulimit -v 3000000; exec heal '$made/cut.tns' '$made/text' --steps 1 --batch 100000 --context 16 -o out.tns"
    [ "$status" -eq 71 ]
    [[ $output == *'MiB of memory would be needed, there are '*'--batch '*' --memory 0 takes '* ]]
}

# Loss and counted tokens of the first step.
first() {
    heal -q "$made/cut.tns" "$@" --steps 1 --loss ce --log log -o out.tns
    "$PYTHON" -c 'import json
line = json.loads(open("log").readline())
print(line["loss"], line["counted_tokens"])'
}

count() {
    printf %s "$1" | tokenize --plain --count "$made/dense"
}

@test "conversations of three forms are the same, and only answers count" {
    echo '{"instruction": "Who is it?", "input": "", "output": "It was Lily."}' >alpaca
    echo '{"conversations": [{"from": "human", "value": "Who is it?"}, {"from": "gpt", "value": "It was Lily."}]}' >sharegpt
    echo '{"messages": [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "It was Lily."}]}' >messages
    options=(--batch 1 --context 128 --template chatml)
    first alpaca "${options[@]}" >expected
    for form in sharegpt messages; do
        first "$form" "${options[@]}" | diff expected -
    done
    question=$'<|im_start|>user\nWho is it?<|im_end|>\n<|im_start|>assistant\n' answer=$'It was Lily.<|im_end|>\n'
    tensor-info out.tns | grep '"counted":"answers"'
    all=$(count "$question$answer")
    [ "$(cut -d' ' -f2 expected)" -eq "$((all - $(count "$question")))" ]
    first alpaca "${options[@]}" --all >whole
    [ "$(cut -d' ' -f2 whole)" -eq "$((all - 1))" ]
    echo '{"messages": [{"role": "user", "content": "Who is it?"}]}' >asked
    refuses 65 'no answer' heal -q "$made/cut.tns" asked "${options[@]}" --steps 1
    refuses 64 'no JSON documents' heal -q "$made/cut.tns" "$made/text" "${options[@]}" --steps 1
}

@test "an array is what its lines would be; a limit takes the first of each file" {
    echo '{"text": "Lily, [\"a\"] {had} a cat."}' >one
    echo '{"text": "She was happy."}' >two
    cat one two >lines
    { echo '[' && cat one && echo ',' && cat two && echo ']'; } >array
    first lines --batch 1 --context 64 >expected
    first array --batch 1 --context 64 | diff expected -
    first one --batch 1 --context 64 >expected
    for form in lines array; do
        first $form --batch 1 --context 64 --limit 1 | diff expected -
    done
    tensor-info out.tns | grep '"limit":1'
    while read -r text said; do
        echo "$text" >bad
        refuses 65 "$said" heal -q "$made/cut.tns" bad --context 16 --batch 1 --steps 1
    done <<'BAD'
[{"text":"a"} item 1: expected ',' or ']'
[{"text":"a"}, bad, item 2
[{"text":"a"},] bad, item 2
[{"text":"a"}}] item 1: expected ',' or ']'
[{"text":"a"}]] bytes behind the array
[{"text":"a"},3] item 2: expected "text"
BAD
}

@test "documents in one window don't see each other" {
    echo '{"text": "Once upon a time, there was a cat."}' >one
    echo '{"text": "Lily had a big red ball. She was happy."}' >two
    cat one two >both
    first one --batch 1 --context 64 >first.one
    first two --batch 1 --context 64 >first.two
    first both --batch 1 --context 64 >first.both
    first one two --batch 1 --context 64 | diff first.both -
    cat first.* | "$PYTHON" -c 'import sys
(both, n), (one, k), (two, m) = (map(float, line.split()) for line in sys.stdin)
assert n == k + m and abs(both - (one * k + two * m) / n) < 1e-5 * both, (both, one, two)'
}

@test "the order of windows is that of the seed, and another one in each pass" {
    for seed in 1 2 1; do
        heal -q "$made/cut.tns" "$made/text" --batch 1 --context 4 --epochs 2 --lr 0 --seed $seed --log log -o out.tns
        log_losses log >"losses.$seed"
        [ ! -e again ] || diff again losses.1
        [ "$seed" = 2 ] || cp losses.1 again
    done
    "$PYTHON" -c 'one, two = (open("losses." + seed).read().split() for seed in "12")
half = len(one) // 2
assert half == 11 and sorted(one) == sorted(two) and one != two
assert sorted(one[:half]) == sorted(one[half:]) and one[:half] != one[half:]'
}

# A chunk of the logits has 512 rows here.
@test "a teacher may be wider" {
    "$PYTHON" "$TOP/tests/tools/random_model.py" wide --family llama --set vocab_size=512 --set hidden_size=96
    for batch in 40 1; do
        heal -q "$made/cut.tns" "$made/text" --teacher wide --context 16 --steps 1 --lr 0 --batch $batch \
            --accumulate $((40 / batch)) --log log -o out.tns
        log_losses log >>costs
    done
    "$PYTHON" -c 'one, two = map(float, open("costs")); print(one, two); assert abs(one / two - 1) < 1e-6'
}

@test "products of bf16 learn nearly the same" {
    local args=("$made/cut.tns" "$made/text" --teacher "$made/dense" --steps 20 --batch 3 --context 16 --lr 0.003 --warmup 3)

    if ! heal -q "${args[@]}" --products bf16 --log log -o out.tns 2>message; then
        refuses 69 'AVX512-BF16' heal -q "${args[@]}" --products bf16 -o out.tns
        skip "no AVX512-BF16"
    fi
    losses 0.05 log "$llama_kl"
    [ "$(log_losses log)" != "$(log_losses "$made/log")" ]
    refuses 69 'not on this device' heal -q "${args[@]}" --products bf16 --device reference -o out.tns
    refuses 64 "'f16' is not" heal "${args[@]}" --products f16 -o out.tns
}

@test "nothing is trained on what models are measured with" {
    refuses 69 'GSM8K, test' small "$TOP/tests/cli/data/gsm8k_test.jsonl" -o out.tns
}

@test "what makes no sense is refused" {
    refuses 64 'heal MODEL DATA' heal "$made/cut.tns"
    refuses 64 '--loss kl needs --teacher' heal "$made/cut.tns" "$made/text" --loss kl
    refuses 64 'no use for --teacher' heal "$made/cut.tns" "$made/text" --loss ce --teacher "$made/dense"
    refuses 64 '--mix needs --loss mix' heal "$made/cut.tns" "$made/text" --mix 0.5
    refuses 64 "'cors' is not one of" heal "$made/cut.tns" "$made/text" --train cors
    refuses 64 'is not two numbers' heal "$made/cut.tns" "$made/text" --betas 0.9
    refuses 64 'nothing to train' heal -q "$made/cut.tns" "$made/text" -m nothing --context 16 --batch 1 --steps 1
    refuses 66 'nowhere' heal "$made/cut.tns" nowhere
    refuses 64 'read twice' heal - "$made/text"
    "$PYTHON" "$TOP/tests/tools/random_model.py" other
    refuses 65 'vocabulary' heal -q "$made/cut.tns" "$made/text" --context 16 --batch 1 --steps 1 --teacher other
}
