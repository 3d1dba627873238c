#!/usr/bin/env bats
# calibrate: moments whole, block by block, part by part, with a reference; texts and conversations.

load shared

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    ln -s "$TOP/pipelines/models/stories260K" model
    for i in 1 2 3 4 5 6 7 8; do
        echo "Once upon a time, there was a little girl named Lily. She saw $i big dogs. The dog was sad. \"Do not be sad,\" said Lily."
    done >text
    cat >moments.py <<'PYTHON'
"""Streams of moments: read, list, compare."""
import sys
import msgpack
import numpy as np


def read(path):
    """The header, and the records by name: (map, numbers)."""
    unpacker = msgpack.Unpacker(open(path, "rb"), max_buffer_size=0)
    header, _ = next(unpacker), next(unpacker)
    records = {}
    for record in unpacker:
        if record["kind"] == "end":
            return header, records
        _, payload, _ = next(unpacker), next(unpacker), next(unpacker)
        kind = {"f32": "<f4", "i64": "<i8", "u8": "u1"}[record["dtype"]]
        records[record["name"]] = record, np.frombuffer(payload, kind).reshape(record["shape"])


def full(packed):
    n = int((2 * len(packed)) ** 0.5)
    h = np.zeros((n, n), "f4")
    h[np.tril_indices(n)] = packed
    return h + np.tril(h, -1).T


def same(a, b, bound=0.0, only=""):
    """All of b's numbers are those of a's records of the same name, b has all that begin so, and as many tokens."""
    a, b = read(a)[1], read(b)[1]
    assert b.keys() == {name for name in a if name.startswith(only)}, (list(a), list(b))
    for name, (record, numbers) in b.items():
        assert {**record} == {**a[name][0]}, (record, a[name][0])
        error = np.linalg.norm(numbers - a[name][1])
        assert error <= bound * np.linalg.norm(a[name][1]), (name, error)
PYTHON
}

python() {
    "$PYTHON" -c "from moments import *
$1"
}

@test "a model's moments: every input of every block, in a stream" {
    calibrate -q model text --context 32 --sequences 6 >m
    tensor-info m >/dev/null
    python '
header, records = read("m")
inputs = ["mlp.down", "mlp.gateup", "self_attn.o", "self_attn.qkv"]
assert list(records) == [f"model.layers.{k}.{i}" for k in range(5) for i in inputs], list(records)
assert {r["tokens"] for r, _ in records.values()} == {192}
assert [records[f"model.layers.3.{i}"][0]["width"] for i in inputs] == [172, 64, 64, 64]
assert records["model.layers.3.self_attn.qkv"][0]["weights"] == [f"model.layers.3.self_attn.{p}_proj.weight" for p in "qkv"]
assert records["model.layers.3.mlp.gateup"][0]["weights"] == [f"model.layers.3.mlp.{p}_proj.weight" for p in ("gate", "up")]
for record, packed in records.values():
    assert np.linalg.eigvalsh(full(packed).astype("f8")).min() > -1e-5 * packed.max()
program, last = [e["program"] for e in header["history"]], header["history"][-1]["options"]
assert program == ["extract-layer", "calibrate"], program
assert (last["data"]["name"], last["context"], last["sequences"], last["tokens"]) == ("text", 32, 6, 192), last'
    calibrate -q model text --context 32 --sequences 6 --threads 3 -o again
    cmp m again
    extract-layer model | calibrate -q - text --context 32 --sequences 6 --memory 0 >again
    python 'same("m", "again")'
    calibrate -q model - --context 32 --sequences 6 --device reference <text >again
    python 'same("m", "again", 1e-5)'
    [ -z "$(find . -name 'lapidary.*' -o -name '.*.part')" ]
}

@test "block by block, from streams of single blocks, it is what the whole model gives" {
    calibrate -q model text --context 32 --sequences 6 >whole
    calibrate -q model text --context 32 --sequences 6 --embedding --hidden-out h.0
    for k in 0 1 2 3 4; do
        extract-layer model --layer $k | calibrate -q - --block $k --hidden-in h.$k --hidden-out h.$((k + 1)) >m.$k
        python "same('whole', 'm.$k', only='model.layers.$k.')"
    done
    python 'header, records = read("h.3")
assert [list(r[1].shape) for r in records.values()] == [[1], [192, 64], [6]], records
assert records["block"][1][0] == 3 and list(records["lengths"][1]) == [32] * 6
assert header["history"][-1]["options"]["data"]["name"] == "text"
assert read("m.3")[0]["history"][-1]["options"]["data"]["name"] == "text"'
    calibrate -q model --block 0 --hidden-in h.0 --advance --hidden-out other --memory 0
    cmp other h.1 || python 'same("h.1", "other")'
    calibrate -q model --block 2 --hidden-in - <h.2 >other
    python 'same("m.2", "other")'
    extract-layer model --layer rest | calibrate -q - text --context 32 --sequences 6 --embedding --hidden-out other
    python 'same("h.0", "other")'
}

@test "part by part it is what the block gives" {
    calibrate -q model text --context 32 --embedding --hidden-out in
    calibrate -q model --block 0 --hidden-in in >block
    for part in self_attn.qkv self_attn.o mlp.gateup mlp.down; do
        calibrate -q model --block 0 --hidden-in in --part ${part#*.} >one
        python "same('block', 'one', only='model.layers.0.$part')"
    done
    # What was compressed before a part changes what it sees, what comes behind it doesn't.
    extract-layer model --layer 0 | quantize -q --bits 3 -m '*.up_proj.*' | calibrate -q - --block 0 --hidden-in in >other
    python 'a, b = read("block")[1], read("other")[1]
differs = [name.split(".")[-1] for name in a if (a[name][1] != b[name][1]).any()]
assert differs == ["down"], differs'
}

@test "a reference beside it: cross moments, and those of held-out sequences" {
    calibrate -q model text --context 16 --sequences 12 --embedding --hidden-out in
    calibrate -q model --block 0 --hidden-in in --hidden-out out >dense
    extract-layer model --layer 0 | quantize -q --bits 3 >packed
    calibrate -q packed --block 0 --hidden-in in --advance --hidden-out out.q
    calibrate -q model --block 1 --hidden-in out.q --held 3 >apart
    calibrate -q model --block 1 --hidden-in out --held 3 >apart.dense
    calibrate -q model --block 1 --hidden-in out.q --reference model --reference-hidden-in out --held 3 \
        --reference-hidden-out next.r --hidden-out next.q >pair
    python '
a, d, p = read("apart")[1], read("apart.dense")[1], read("pair")[1]
for name in [n for n in a if not n.endswith(".held")]:
    h, held = full(p[name][1]), full(p[name + ".held"][1])
    assert (p[name][1] == a[name][1]).all() and (p[name + ".held"][1] == a[name + ".held"][1]).all()
    assert name + ".held.reference" not in p
    assert [p[name + s][0]["tokens"] for s in ("", ".cross", ".held", ".held.cross")] == [144, 144, 48, 48]
    # Cauchy and Schwarz, and near to both
    for cross, x, y in ((p[name + ".cross"][1], h, full(d[name][1])), (p[name + ".held.cross"][1], held, full(d[name + ".held"][1]))):
        bound = np.sqrt(np.outer(np.diag(y), np.diag(x)))
        assert (abs(cross) <= bound * 1.0001).all()
        assert (np.diag(cross) > 0.3 * np.diag(bound)).mean() > 0.9, name
    assert not (p[name + ".cross"][1] == p[name + ".cross"][1].T).all()'
    calibrate -q model --block 1 --hidden-in out --advance --hidden-out next
    python 'assert (read("next")[1]["hidden"][1] == read("next.r")[1]["hidden"][1]).all()'
    # A model beside itself; an eighth is held out, at least one of several.
    for count in 1 2; do
        calibrate -q model text --context 16 --sequences $count --reference model >few
        [ "$(python 'print(sum(".held" in name for name in read("few")[1]) > 0)')" = "$([ $count = 2 ] && echo True || echo False)" ]
    done
    calibrate -q model --block 1 --hidden-in out --reference model --reference-hidden-in out >self
    python '
for name, (record, numbers) in read("self")[1].items():
    assert record["tokens"] == (16 if ".held" in name else 176)
    if name.endswith(".cross"):
        h = full(read("self")[1][name[:-6]][1])
        assert np.linalg.norm(numbers - h) < 1e-6 * np.linalg.norm(h)'
    extract-layer model | quantize -q --bits 3 -m '*.layers.0.*' -o whole.q
    calibrate -q whole.q text --context 16 --sequences 12 --reference model --held 3 >whole
    calibrate -q whole.q --block 1 --hidden-in out.q --reference model --reference-hidden-in out --held 3 >one
    python 'same("whole", "one", 1e-6, only="model.layers.1.")'
}

@test "the first sequences, or some drawn by a seed" {
    calibrate -q model text --context 16 --embedding --sequences 4 --hidden-out first
    calibrate -q model text --context 16 --embedding --sequences 4 --seed 1 --hidden-out one
    calibrate -q model text --context 16 --embedding --sequences 4 --seed 1 --hidden-out again
    calibrate -q model text --context 16 --embedding --sequences 4 --seed 2 --hidden-out two
    calibrate -q model text --context 16 --embedding --sequences 20 --hidden-out all
    cmp one again
    python '
first, one, two, every = ([r.tobytes() for r in read(f)[1]["hidden"][1].reshape(-1, 16, 64)] for f in ("first", "one", "two", "all"))
assert first == every[:4] and set(first) != set(one) and set(one) != set(two)
assert len(set(one)) == 4 and set(one) < set(every), "drawn without putting back"
assert read("one")[0]["history"][-1]["options"]["seed"] == 1'
    calibrate model text --context 100 -o m 2>said
    grep -qF "tokens, not the 12800 of 128 sequences of 100: all are used" said
    python '
tokens, = {r["tokens"] for r, _ in read("m")[1].values()}
assert read("m")[0]["history"][-1]["options"]["tokens"] == tokens and tokens % 100'
}

@test "JSON lines: texts, and conversations in the model's template" {
    "$PYTHON" -c '
import json
print(json.dumps({"text": open("text").read()}))' >one.jsonl
    calibrate -q model text --context 16 --sequences 4 >a
    calibrate -q model one.jsonl --context 16 --sequences 4 >b
    python 'same("a", "b")'
    { echo '[' && cat one.jsonl && echo ']'; } >one.json
    calibrate -q model one.json --context 16 --sequences 4 >b
    python 'same("a", "b")'
    talk='{"role":"user","content":"Who was sad?"},{"role":"assistant","content":"The dog."}'
    echo "{\"messages\":[$talk]}" >messages.jsonl
    echo '{"conversations":[{"from":"human","value":"Who was sad?"},{"from":"gpt","value":"The dog."}]}' >sharegpt.jsonl
    echo '{"instruction":"Who was sad?","input":"","output":"The dog."}' >alpaca.jsonl
    refuses 69 'has no chat template' calibrate -q model messages.jsonl
    for file in messages sharegpt alpaca; do
        calibrate -q model $file.jsonl --template chatml >$file
    done
    python 'same("messages", "sharegpt"); same("messages", "alpaca")'
    printf '<|im_start|>user\nWho was sad?<|im_end|>\n<|im_start|>assistant\nThe dog.<|im_end|>\n' >written
    [ "$(python 'print(read("messages")[0]["history"][-1]["options"]["template"])')" = chatml ]
    printf '{"text":"A dog."}\n\n{"text":"A cat."}\n' >two.jsonl
    calibrate -q model two.jsonl --embedding --hidden-out two
    tokens=$(($(printf 'A dog.' | tokenize model | wc -w) + 1 + $(printf 'A cat.' | tokenize model | wc -w)))
    python "assert list(read('two')[1]['lengths'][1]) == [$tokens]"
    echo '{"page":"x"}' >bad.jsonl
    refuses 65 'bad.jsonl, line 1: expected "text"' calibrate -q model bad.jsonl
    printf '{"text":"A dog."}\n{"text":\n' >bad.jsonl
    refuses 65 'bad.jsonl, line 2' calibrate -q model bad.jsonl
    echo '{"messages":[{"role":"user"}]}' >bad.jsonl
    refuses 65 'message 1: expected a member "content"' calibrate -q model bad.jsonl --template chatml
    echo '{"messages":[]}' >bad.jsonl
    refuses 65 'bad.jsonl, line 1: expected a list' calibrate -q model bad.jsonl --template chatml
}

@test "what doesn't go together is refused with a reason" {
    refuses 64 'a model and a text are needed' calibrate model
    refuses 64 'a model and a text are needed' calibrate
    refuses 64 "unexpected operand 'more'" calibrate model text more
    refuses 64 'which model?' calibrate --block 0 --hidden-in h
    refuses 64 '--block takes no text' calibrate model text --block 0 --hidden-in h
    refuses 64 '--block needs --hidden-in' calibrate model --block 0
    refuses 64 '--embedding needs --hidden-out' calibrate model text --embedding
    refuses 64 '--advance needs --hidden-out' calibrate model --block 0 --hidden-in h --advance
    refuses 64 '--embedding and --block exclude each other' calibrate model --embedding --block 0 --hidden-in h --hidden-out g
    refuses 64 '--part and --hidden-out exclude each other' calibrate model --block 0 --hidden-in h --part o --hidden-out g
    refuses 64 '--part and --advance exclude each other' calibrate model --block 0 --hidden-in h --part o --advance
    refuses 64 '--part needs --block' calibrate model text --part o
    refuses 64 "--part: 'x' is not one of" calibrate model --block 0 --hidden-in h --part x
    refuses 64 "--hidden-out doesn't belong to a whole model" calibrate model text --hidden-out h
    refuses 64 "--context doesn't belong to --block" calibrate model --block 0 --hidden-in h --context 32
    refuses 64 "--held doesn't belong to --embedding" calibrate model text --embedding --hidden-out h --held 1
    refuses 64 '--held and --advance exclude' calibrate model --block 0 --hidden-in h --advance --hidden-out g --held 1
    refuses 64 '--reference-hidden-in needs --reference' calibrate model --block 0 --hidden-in h --reference-hidden-in g
    refuses 64 'needs --reference-hidden-in' calibrate model --block 0 --hidden-in h --reference model
    refuses 64 'there are no moments to write with --embedding' calibrate model text --embedding --hidden-out h -o m
    refuses 64 'there are no moments to write with --advance' calibrate model --block 0 --hidden-in h --advance --hidden-out g -o m
    refuses 64 'standard input can be one operand only' calibrate - -
    refuses 64 'standard input can be one operand only' calibrate - --block 0 --hidden-in -
    refuses 64 '--context: 1024 tokens, but the model takes 512' calibrate model text --context 1024
    refuses 64 '--held: 9 of 4 sequences leave none' calibrate -q model text --context 16 --sequences 4 --held 9
    refuses 64 "two outputs are 'g'" calibrate model --block 0 --hidden-in h --hidden-out g -o g
    refuses 64 "two outputs are '-'" calibrate model --block 0 --hidden-in h --hidden-out -
    refuses 64 "two outputs are '-'" calibrate model --block 0 --hidden-in h --hidden-out - -o -
    refuses 64 "--template: no conversations in 'text'" calibrate -q model text --template chatml
    refuses 66 'absent' calibrate -q model absent
    refuses 66 'absent' calibrate absent text
    : >empty
    refuses 65 'the text is empty' calibrate -q model empty
    [ ! -e h ] && [ ! -e g ] && [ ! -e m ]
}

@test "hidden states that are cut short, altered or of something else are refused, and nothing is left" {
    calibrate -q model text --context 16 --sequences 4 --embedding --hidden-out in
    refuses 65 'enter block 0, expected block 1' calibrate model --block 1 --hidden-in in -o m
    refuses 64 'has blocks 0 to 4' calibrate model --block 5 --hidden-in in -o m
    head -c 9000 in >short
    refuses 65 short calibrate model --block 0 --hidden-in short -o m --hidden-out g
    head -c 9000 in | refuses 65 'cut short' calibrate model --block 0 --hidden-in - -o m --hidden-out g
    cp in altered
    printf 'x' | dd of=altered bs=1 seek=9000 conv=notrunc status=none
    refuses 65 'checksum' calibrate model --block 0 --hidden-in altered -o m --hidden-out g
    extract-layer model >stream
    refuses 65 'no file of hidden states' calibrate model --block 0 --hidden-in stream -o m
    "$PYTHON" "$TOP/tests/tools/random_model.py" small
    refuses 65 'of a model of other sizes' calibrate small --block 0 --hidden-in in -o m
    refuses 65 'are not of the same sizes' calibrate -q model text --reference small -o m
    calibrate -q model text --context 16 --sequences 5 --embedding --hidden-out more
    refuses 65 'of other texts' calibrate model --block 0 --hidden-in in --reference model --reference-hidden-in more -o m
    extract-layer model --layer 1 >one
    refuses 65 'layer 0' calibrate one --block 0 --hidden-in in -o m --hidden-out g
    refuses 65 'no tokenizer.json in the model' calibrate -q one text --context 16 -o m
    head -c 60000 stream >short
    refuses 65 'cut short' calibrate -q - text --context 16 -o m <short
    [ ! -e m ] && [ ! -e g ]
    [ -z "$(find . -name '.*.part')" ]
}

@test "a run that is stopped leaves nothing" {
    extract-layer model >stream
    mkfifo pipe
    for signal in INT TERM HUP; do
        env --default-signal=INT,TERM,HUP calibrate -q pipe text --context 16 -o m 3>&- & job=$!
        exec 4>pipe
        head -c 900000 stream >&4                        # the end never comes
        for _ in $(seq 100); do [ ! -e .m.part ] || break; sleep 0.02; done
        [ -e .m.part ]
        kill -s $signal $job
        code=0
        wait $job || code=$?
        exec 4>&-
        [ "$code" -eq $((128 + $(kill -l $signal))) ]
        [ ! -e m ] && [ ! -e .m.part ]
    done
}
