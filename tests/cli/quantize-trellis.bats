#!/usr/bin/env bats
# quantize --code trellis: end to end, with moments, plans and curves; what is refused.

load shared

setup_file() {
    cd "$BATS_FILE_TMPDIR" || exit 1
    model_with_moments
    extract-layer model | quantize -q --code trellis --rate 3 --rotate=full --seed 1 --moments moments -o t3.tns || exit 1
    quantize -q --code trellis --rate 1.5 --moments moments model -o coarse.tns || exit 1
    quantize -q --code trellis --rate 2 model -o t2.tns || exit 1
    calibrate -q coarse.tns text --reference model --context 256 --sequences 8 -o seq.moments
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    for file in model text moments t2.tns t3.tns seq.moments; do
        ln -s "$BATS_FILE_TMPDIR/$file" .
    done
}

perplexity() {
    evaluate perplexity -q "$1" text --context 256 --limit-tokens 1024 >report
    member report perplexity
}

# below A B PART: A <= PART * B
below() {
    echo "$1 against $3 of $2"
    "$PYTHON" -c 'import sys; a, b, part = map(float, sys.argv[1:]); sys.exit(a > part * b)' "$@"
}

@test "one sentence from model to perplexity, through a stream and a directory" {
    tensor-info t3.tns >info
    grep -q 'q_proj.weight  *1664 B  t3-12 64x64 after hadamard 64 before hadamard 64' info
    grep -q 'down_proj.weight .*t3-12 64x172' info
    grep -q 'embed_tokens.weight .*q8-64-min' info
    tensor-info --verify t3.tns | grep -q verified
    tensor-info --json t3.tns >info
    grep -q '"code": "trellis"' info
    grep -q '"rate": 3' info
    assemble -q -o directory t3.tns
    extract-layer directory | cmp t3.tns -
    below "$(perplexity t3.tns)" "$(perplexity model)" 1.6
    [ "$(perplexity directory)" = "$(perplexity t3.tns)" ]
    quantize -q --bits 3 --group 64 --rotate=full --seed 1 --moments moments model -o q3.tns
    below "$(perplexity t3.tns)" "$(perplexity q3.tns)" 1
}

@test "bytes are the rate's, and an f16 per row" {
    for rate in 1 1.5 2 2.5 3 3.5 4; do
        quantize -q --code trellis --rate $rate --state 8 model -o out.tns
        tensor-info --json out.tns >info
        "$PYTHON" - $rate <<'PY'
import json, sys
for t in json.load(open("info"))["tensors"]:
    if "_proj" in t["name"]:
        out, size = t["shape"]
        assert t["bytes"] == -(-out * size * float(sys.argv[1]) // 8 // 64) * 64 + 2 * out, (t["name"], t["bytes"])
PY
    done
}

@test "the inverse, the contraction and the dense model are what the codes stand for" {
    quantize -q --inverse t3.tns -o plain.tns
    tensor-diff t3.tns plain.tns
    mpo-contract t3.tns | tensor-diff --tolerance 1e-6 t3.tns -
    assemble -q --dense --dtype f32 -o dense t3.tns
    tensor-diff --tolerance 1e-6 t3.tns dense
    run tensor-diff model t3.tns
    [ "$status" -eq 1 ]
    quantize t3.tns --code trellis -o again.tns 2>said
    grep -q '0 of 36 weights packed' said
}

@test "equal bytes for any number of threads" {
    for threads in 1 2 3; do
        quantize -q --threads $threads --code trellis --rate 1.5 --state 10 --moments moments --rotate --residual-chi 2 model -o a$threads.tns
    done
    cmp a1.tns a2.tns
    cmp a1.tns a3.tns
}

@test "moments, a longer state and a residual each lower the error" {
    outputs() {
        quantize --code trellis --rate 2 --seed 1 --rotate=full --moments moments "$@" model -o out.tns 2>said
        sed -n 's/.* of the layers. outputs \(0\.[0-9]*\).*/\1/p' said
    }
    short=$(outputs --state 8)
    below "$(outputs --state 12)" "$short" 0.97
    below "$(outputs --state 8 --residual-chi 4)" "$short" 0.99
    tensor-info out.tns | grep -q 'up_proj.weight .*t2-8 1x172x64x1.* + q8-64-none 1x172x1x4 q8-64-none 4x1x64x1'
    quantize -q --code trellis --rate 2 --state 8 --rotate=full --seed 1 model -o plain.tns
    quantize -q --code trellis --rate 2 --state 8 --rotate=full --seed 1 --moments moments model -o aware.tns
    below "$(perplexity aware.tns)" "$(perplexity plain.tns)" 1
}

@test "the sequential target" {
    quantize --code trellis --rate 1.5 --moments seq.moments --match '*.layers.[1-4].*' model -o seq.tns 2>said
    cat said
    grep -Eq ', [1-9][0-9]* by the sequential target' said
}

@test "cores of several" {
    mpo-decompose -q --chi 12 --force --dtype f32 model | quantize --code trellis --rate 4 --moments moments -o cores.tns 2>said
    tensor-info cores.tns | grep -q 'up_proj.weight .*t4-12 1x172x1x12 t4-12 12x1x64x1'
    mpo-decompose -q --chi 12 --force --dtype f32 model -o before.tns
    tensor-diff --tolerance 0.2 before.tns cores.tns
}

@test "plans mix codes, curves tell what quantize then writes" {
    quantize -q --curves --code trellis --rate 1,2,3.5 --state 8,12 --rotate=0,full --match '*.layers.0.*' --moments moments model -o curves
    grep -q '"plan":"code=trellis rate=3.5 state=8 rotate=full"' curves
    [ "$(grep -c '"plan":"code=trellis' curves)" -eq 84 ]
    quantize -q --curves --code trellis --rate 1,2,3,4 --moments moments model -o all
    allot -q --budget 2.6bpw all -o p.plan
    [ "$(grep -c 'code=trellis rate=' p.plan)" -ge 30 ]
    quantize -q --plan p.plan --moments moments model -o planned.tns
    bits=$(tensor-info --json planned.tns | "$PYTHON" -c 'import json, sys
tensors = [t for t in json.load(sys.stdin)["tensors"] if "_proj" in t["name"]]
print(8 * sum(t["bytes"] for t in tensors) / sum(t["parameters"] for t in tensors))')
    below "$bits" 2.6 1
    below 2.4 "$bits" 1
    printf '%s\n' '*.0.*q_proj* code=trellis rate=2.5 state=9 rotate=full' '*.0.*mlp* bits=3 group=32' '*.0.*k_proj* code=trellis rate=1 residual_chi=2' >mixed.plan
    quantize -q --plan mixed.plan --moments moments model -o mixed.tns
    tensor-info mixed.tns >info
    grep -q 'layers.0.self_attn.q_proj.weight .*t2.5-9 64x64 after hadamard' info
    grep -q 'layers.0.mlp.up_proj.weight .*q3-32-min 172x64' info
    grep -q 'layers.0.self_attn.k_proj.weight .*t1-12 1x32x64x1 + q8-64-none' info
    grep -q 'layers.0.self_attn.v_proj.weight .*f32 32x64' info
}

@test "wrong options say what was expected" {
    refuses 64 "rate: '5' is not 1, 1.5, 2, 2.5, 3, 3.5 or 4" quantize --code trellis --rate 5 model
    refuses 64 "rate: '2.25' is not 1, 1.5" quantize --code trellis --rate 2.25 model
    refuses 64 "state: '17' is not 8 to 16" quantize --code trellis --state 17 model
    refuses 64 "state: '7' is not 8 to 16" quantize --code trellis --state 7 model
    refuses 64 "code: 'vector' is not scalar or trellis" quantize --code vector model
    refuses 64 "--rate and --state go with --code trellis, and the code is scalar" quantize --rate 2 model
    refuses 64 "--rate and --state go with --code trellis" quantize --code scalar --state 12 model
    refuses 64 "go with --code scalar, and the code is trellis" quantize --code trellis --bits 2 model
    refuses 64 "go with --code scalar, and the code is trellis" quantize --code trellis --group 32 model
    refuses 64 "lists of settings go with --curves only" quantize --code trellis --rate 2,3 model
    refuses 64 "one of scalar and trellis" quantize --curves --code scalar,trellis model
    refuses 64 "--plan says it all" quantize --plan p --code trellis model
    refuses 64 "--inverse goes with" quantize --inverse --code trellis model
    for line in "* code=trellis" "* code=trellis rate=2 bits=3" "* rate=2" "* bits=3 state=12" "* code=lattice" "* code=trellis rate=9"; do
        printf '\n%s\n' "$line" >bad.plan
        refuses 65 "'bad.plan', line 2" quantize --plan bad.plan model
    done
}

# "CHANGE program" for what reads a stream of a changed tensor: a Python expression of dtype, shape or payload.
changed() {
    PYTHONPATH="$BATS_TEST_DIRNAME/.." "$PYTHON" - "$1" <<'PY'
import sys
import stream_python
header, records = stream_python.read_stream(open("t2.tns", "rb").read())
record = next(r for r in records if r["name"] == "model.layers.0.mlp.up_proj.weight")
assert record["dtype"] == "t2-12" and record["shape"] == [172, 64]
record.update(eval("dict(%s)" % sys.argv[1], {"payload": record["payload"]}))
record["bytes"] = len(record["payload"])
open("bad.tns", "wb").write(stream_python.write_stream(header, records))
PY
}

# Of each program that reads streams, with a TEXT that differs for what multiplies out and what computes.
all_refuse() {
    refuses 65 "$1" tensor-info --verify bad.tns
    refuses 65 "$2" quantize -q --inverse bad.tns -o bad.out
    refuses 65 "$2" mpo-contract -q bad.tns -o bad.out
    refuses 65 "$3" evaluate perplexity -q bad.tns text
    [ ! -e bad.out ]
}

# With right checksums.
@test "streams that say something else than they hold are refused by each program" {
    changed ''
    cmp bad.tns t2.tns
    for name in t2-7 t2-17 t0-12 t9-12 t2.25-12 t2.0-12 t2-1x t2- tt2-12 t2-012; do
        changed "dtype='$name'"
        refuses 65 "'model.layers.0.mlp.up_proj.weight': unknown dtype '$name'" tensor-info bad.tns
    done
    for change in "dtype='t2-7'" "dtype='t2.5-12'" 'shape=[171, 64]' 'shape=[172, 65]' 'shape=[1 << 62, 64]' \
        'shape=[-172, 64]' 'payload=payload[:-2]' 'payload=payload+bytes(2)' 'payload=b""'; do
        changed "$change"
        all_refuse up_proj.weight up_proj.weight up_proj.weight
        refuses 65 up_proj.weight extract-layer bad.tns -o bad.out
        refuses 65 up_proj.weight assemble bad.tns -o bad.out
        [ ! -e bad.out ]
    done
    grep -q '0 bytes, expected 3096' err
}

# Whoever only carries payloads doesn't look at them.
@test "scales that are no numbers are refused by what computes with them" {
    for half in 7e00 7c00 fc00; do
        changed "payload=payload[:-4] + bytes.fromhex('$half')[::-1] + payload[-2:]"
        all_refuse "up_proj.weight': a number is not finite" "up_proj.weight': a number is not finite" 'are not finite'
        extract-layer bad.tns | cmp - bad.tns
    done
    extract-layer bad.tns | assemble -q -o directory.bad
    refuses 65 "up_proj.weight': a number is not finite" tensor-info --verify directory.bad
    refuses 65 'are not finite' evaluate perplexity -q directory.bad text
}

@test "hostile directories are refused" {
    assemble -q t2.tns -o directory
    "$PYTHON" - <<'PY'
import json, os, struct
path = "directory/model.safetensors"
data = bytearray(open(path, "rb").read())
size = int.from_bytes(data[:8], "little")
header = json.loads(data[8:8 + size])
first, last = header["model.layers.0.mlp.up_proj.weight.scale"]["data_offsets"]
assert last - first == 2 * 172
assert header["model.layers.0.mlp.up_proj.weight.codes"]["shape"] == [172 * 64 // 4]
data[8 + size + first:8 + size + first + 2] = struct.pack("<e", float("nan"))
os.mkdir("nan")
for name in os.listdir("directory"):
    open("nan/" + name, "wb").write(open("directory/" + name, "rb").read())
open("nan/model.safetensors", "wb").write(data)
text = data[8:8 + size].decode()
os.mkdir("wrong")
for name in os.listdir("directory"):
    open("wrong/" + name, "wb").write(open("directory/" + name, "rb").read())
text = bytes(data[8:8 + size]).replace(b't2-12', b't3-12')
open("wrong/model.safetensors", "wb").write(data[:8] + text + data[8 + size:])
PY
    refuses 65 "layers.0.mlp.up_proj.weight': a number is not finite" tensor-info --verify nan
    refuses 65 "bytes, expected" tensor-info wrong
}
