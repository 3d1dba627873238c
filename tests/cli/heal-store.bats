#!/usr/bin/env bats
# heal: packed cores that were trained, back in their format or in 16 bit.

load shared

# `packed.tns`: low rank and chains of three in two group formats and on a trellis, beside a packed matrix.
setup_file() {
    cd "$BATS_FILE_TMPDIR" || exit 1
    "$PYTHON" "$TOP/tests/tools/random_model.py" dense --family llama --set vocab_size=512
    cp "$TOP/pipelines/models/stories260K/tokenizer.json" dense/
    echo 'Once upon a time, there was a little girl named Lily. She liked to play in the park with her dog.' >text
    extract-layer dense | mpo-decompose -q --chi 8 --shape 32x1,1x48 --dtype f32 --force -m '*down_proj*' |
        mpo-decompose -q --chi 6 --sites 3 --dtype f32 --force -m '*gate_proj*' | packed >packed.tns
}

packed() {
    quantize -q --bits 8 --group 16 --zero none -m '*0.mlp.down_proj*' -m '*0.mlp.gate*' |
        quantize -q --bits 4 --group 8 -m '*2.mlp.down_proj*' -m '*2.mlp.up_proj*' |
        quantize -q --code trellis --rate 4 --state 10 -m '*1.mlp.down_proj*' -m '*1.mlp.gate*'
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    made=$BATS_FILE_TMPDIR
}

small() {
    heal -q "$made/packed.tns" "$made/text" --teacher "$made/dense" --steps 3 --batch 2 --context 16 --lr 0.003 --warmup 1 "$@"
}

formats() {
    tensor-info "$1" | sed -n 's/^\(model.layers[^ ]*mlp[^ ]*\) *[0-9]* B  \(.*\)/\1 \2/p'
}

# What is rounded is what the same training gives in f32.
@test "by default they are rounded to nearest in their format, as quantize rounds them" {
    small --train cores -o out.tns
    small --train cores --dtype f32 -o wide.tns
    diff <(formats "$made/packed.tns") <(formats out.tns)
    packed <wide.tns >expected.tns
    for name in 0.mlp.down 0.mlp.gate 1.mlp.down 1.mlp.gate 2.mlp.down; do
        for model in out expected packed; do
            [ $model != packed ] || cd "$made"
            extract-layer $model.tns -m "model.layers.$name*" >"$BATS_TEST_TMPDIR/$model.one"
            cd "$BATS_TEST_TMPDIR"
        done
        tensor-diff out.one expected.one
        tensor-diff out.one packed.one && false
    done
    formats out.tns | grep '1.mlp.down_proj.weight t4-10 1x32x1x8 t4-10 8x1x48x1'
    formats out.tns | grep '0.mlp.gate_proj.weight q8-16-none .* q8-16-none .* q8-16-none'
}

@test "or kept in 16 bit" {
    small --train cores --dtype bf16 -o out.tns
    small --train cores --dtype f32 -o wide.tns
    for layer in 0 1 2; do
        formats out.tns | grep "$layer.mlp.down_proj.weight bf16 1x32x1x8 bf16 8x1x48x1"
        formats out.tns | grep "$layer.mlp.gate_proj.weight bf16 .* bf16 .* bf16"
    done
    formats out.tns | grep '2.mlp.up_proj.weight q4-8-min 48x32'
    tensor-diff --tolerance 0.01 out.tns wide.tns             # two factors of 8 bits: 2^-8 each, and something
}

@test "where scales are trained, codes stay" {
    small --train scales --dtype bf16 -o out.tns
    diff <(formats "$made/packed.tns") <(formats out.tns)
    tensor-diff --tolerance 1 "$made/packed.tns" out.tns | grep '  error' | cut -d' ' -f1 >changed
    grep '1.mlp.down_proj' changed
    grep '2.mlp.up_proj' changed
    "$PYTHON" - "$TOP/tests" "$made/packed.tns" out.tns <<'CHECK'
import sys
sys.path.append(sys.argv[1])
import stream_python
before, after = ({(r["name"], *r.get("term", ()), *r.get("site", ())): r for r in stream_python.read_stream(open(path, "rb").read())[1]}
                 for path in sys.argv[2:])
for key, codes in ((("model.layers.2.mlp.up_proj.weight",), 48 * 32 // 2),
                   (("model.layers.1.mlp.down_proj.weight", 0, 1, 0, 2), 32 * 8 // 2)):
    a, b = before[key]["payload"], after[key]["payload"]
    assert len(a) == len(b) and a[:codes] == b[:codes] and a != b, key
CHECK
}
