#!/usr/bin/env bats
# allot: plans from error curves; evaluate sensitivity: where they may get their weights from.

load shared

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    ln -s "$TOP/pipelines/models/stories260K" model
    cat >story.txt <<'TEXT'
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big dog. The dog was very sad because it had lost its ball. Lily said, "Do not be sad."
TEXT
}

# Fails unless a and b differ by less than bound relative to b, or both are nearly 0: near A B BOUND
near() {
    "$PYTHON" -c 'import sys
a, b, e = map(float, sys.argv[1:])
print(a, b)
sys.exit(abs(a - b) > e * max(1e-3, abs(b)))' "$@"
}

# Curves of two blocks of two matrices, 100 parameters each, and of an embedding: 2, 3, 4 bits; block 1 is worse.
make_curves() {
    "$PYTHON" -c 'import json
for layer in 0, 1:
    for name in "q", "k":
        for bits in 2, 3, 4:
            print(json.dumps({"name": f"model.layers.{layer}.self_attn.{name}_proj.weight", "out": 10, "in": 10,
                  "plan": f"bits={bits} group=32", "bytes": 13 * bits, "parameters": 100,
                  "error": (layer + 1) * 4.0 ** -bits, "norm": 2.0}))
print(json.dumps({"name": "model.embed_tokens.weight", "bytes": 800, "parameters": 400, "stored_parameters": 400,
                  "fixed": True}))' >curves
}

# The bits of the matrices in a plan, in the order of their names: k0 q0 k1 q1.
bits_of() {
    grep -v '^#' "$1" | sed 's/.*bits=\([0-9]\).*/\1/' | tr -d '\n'
}

@test "a budget in bits, bytes or parts of the linear layers or of all goes where the error is" {
    make_curves
    allot --budget 3.2bpw curves >plan 2>said          # 160 bytes: four times 2, 3, 4 bits are 104, 156, 208
    [ "$(bits_of plan)" = 3333 ]
    grep -q '^allot: 156 bytes, 3.1200 bpw' said
    allot -q --budget 3.4bpw curves >plan 2>said
    [ "$(bits_of plan)" = 3343 ]                       # the first of two that gain alike
    [ ! -s said ]
    allot -q --budget 130B curves >plan
    [ "$(bits_of plan)" = 2233 ]
    allot -q --budget 968B --whole curves >plan
    [ "$(bits_of plan)" = 3333 ]
    allot -q --budget 0.17KB <curves >again
    allot -q --budget 170B - <curves -o plan
    diff <(grep -v '^#' plan) <(grep -v '^#' again)
    allot -q --budget 100% curves >plan
    [ "$(bits_of plan)" = 4444 ]
    refuses 65 'the least that the curves allow is 2.0800bpw' allot --budget 2bpw curves
    refuses 65 'with what stays as it is is 904 bytes' allot --budget 903B --whole curves
}

@test "what isn't a budget, a rule or a curve is refused" {
    make_curves
    refuses 64 "'2.5' is not like" allot --budget 2.5 curves
    refuses 64 '--budget is missing' allot curves
    refuses 64 'is not GLOB=' allot --budget 3bpw --floor 3bpw curves
    refuses 64 'goes with --output only' allot --plan seed --budget 3bpw
    refuses 66 'nowhere' allot --budget 3bpw nowhere
    refuses 65 'no matrix in the curves' allot --budget 3bpw /dev/null
    (cat curves; echo '{"name": "a"') >torn
    refuses 65 'torn, line 14' allot --budget 3bpw torn
    refuses 64 "with a number of a plan's key" allot --budget 3bpw --ceiling '*=bit=3' curves
    refuses 64 "can't both be standard input" allot --budget 3bpw --sensitivity - <curves
    refuses 64 "can't both be standard input" allot --budget 3bpw --sensitivity - - <curves
    refuses 64 "can't both be written to standard output" allot --budget 3bpw --json - curves
    refuses 64 "can't both be written to standard output" allot --budget 3bpw --json - -o - curves
    refuses 64 "can't both be written to same" allot --budget 3bpw --json same -o same curves
    [ ! -e same ]
    refuses 65 'is for no matrix' allot --budget 3bpw --ceiling 'x*=bits=3' curves
}

@test "floors, ceilings and sizes" {
    make_curves
    allot -q --budget 3.2bpw --ceiling '*.0.*=bits=2' curves >plan
    [ "$(bits_of plan)" = 2244 ]
    allot -q --budget 3.2bpw --floor '*.0.self_attn.k*=4bpw' --ceiling '*q_proj.weight=3.2bpw' curves >plan
    [ "$(bits_of plan)" = 4332 ] || [ "$(bits_of plan)" = 4233 ]
    sed 's/"out": 10, "in": 10\(.*layers.1\)/&/; /layers.1.self_attn.q/s/"out": 10/"out": 1000/' curves >large
    allot -q --budget 130B --weight size large >plan
    [ "$(bits_of plan)" = 2224 ]
}

@test "named plans: the seed's tiers, and deeper layers first" {
    make_curves
    diff <(allot --plan seed | sed '/^#/d; s/  */ /g') <(sed '/^#/d; s/  */ /g' "$TOP/pipelines/plans/seed.plan")
    mpo-decompose -q model --plan <(allot --plan seed) | tensor-info --summary >/dev/null
    allot -q --plan deeper-first --budget 156B curves >plan
    [ "$(bits_of plan)" = 4422 ]
    allot -q --plan deeper-first --budget 157B --setting 'bits=3 group=32' curves >plan
    [ "$(bits_of plan)" = 3333 ]
    refuses 65 "no setting 'bits=5'" allot --plan deeper-first --budget 157B --setting bits=5 curves
}

@test "totals as JSON are those of the summary" {
    make_curves
    allot -q --budget 3.2bpw --json totals curves >plan
    [ "$(member totals bytes) $(member totals parameters) $(member totals stored_parameters)" = '156 400 400' ]
    [ "$(member totals settings 'bits=3 group=32')" = 4 ]
    near "$(member totals error)" 0.046875 1e-9
}

@test "curves to plan to packed model: the bytes that were promised" {
    quantize -q model --curves --bits 2,3,4 --group 32,64 >curves
    allot --budget 3.5bpw curves -o plan --json totals 2>said
    quantize -q model --plan plan -o packed.tns
    [ "$(tensor-info packed.tns --json | "$PYTHON" -c 'import json, sys
print(sum(t["bytes"] for t in json.load(sys.stdin)["tensors"] if "_proj" in t["name"]))')" = "$(member totals bytes)" ]
    "$PYTHON" -c "import sys; sys.exit(not 3 < $(member totals bpw) <= 3.5)"
}

@test "sensitivity of a unit is the KL of the model with that unit compressed" {
    evaluate -q sensitivity model story.txt --context 32 --chi 8 --bits 3 --group 32 >matrix
    [ "$(wc -l <matrix)" -eq 70 ]
    for layer in 0 3; do
        weight=model.layers.$layer.mlp.up_proj.weight
        extract-layer model | mpo-decompose -q --chi 8 --shape 172x1,1x64 --force --match "$weight" -o chi.tns
        extract-layer model | quantize -q --bits 3 --group 32 --match "$weight" -o bits.tns
        for plan in chi bits; do
            evaluate -q kl $plan.tns model story.txt --context 32 >report
            grep "\"unit\":\"$weight\".*\"plan\":\"$plan=" matrix >line
            near "$(member line kl)" "$(member report kl)" 1e-9
            near "$(member line perplexity)" "$(member report perplexity)" 1e-9
            [ "$(member line agreement)" = "$(member report agreement)" ]
            near "$(member line kl_standard_error)" "$(member report kl_standard_error)" 1e-6
        done
    done
    extract-layer model | quantize -q --bits 3 --group 32 --match '*.2.*_proj.weight' -o block.tns
    extract-layer model | quantize -q --bits 3 --group 32 --match '*.q_proj.weight' -o kind.tns
    evaluate -q sensitivity model story.txt --context 32 --bits 3 --group 32 --by block >all
    grep '"model.layers.2"' all >block
    evaluate -q sensitivity model story.txt --context 32 --bits 3 --group 32 --by kind >all
    grep '"self_attn.q_proj' all >kind
    for unit in block kind; do
        evaluate -q kl $unit.tns model story.txt --context 32 >report
        near "$(member $unit kl)" "$(member report kl)" 1e-9
    done
    [ "$(member block matrices | grep -o '"name"' | wc -l)" = 7 ]
    [ "$(member kind matrices | grep -o '"name"' | wc -l)" = 5 ]
}

@test "sensitivity goes on after a kill, with the same lines, however much memory there is" {
    measure() { evaluate -q sensitivity model story.txt --context 32 --chi 4,8 --by "$1" "${@:2}"; }
    measure matrix -o whole
    measure matrix --threads 1 --memory 0 >file
    cmp whole file
    head -c 20000 whole >part
    measure matrix -o part
    cmp whole part
    measure block -o part                                # lines of other units stay
    [ "$(head -n 70 part | cmp - whole)" = '' ]
    [ "$(wc -l <part)" -eq 80 ]
    evaluate sensitivity model story.txt --context 32 --chi 4,8 --by block -o part 2>said
    grep -q '0 lines written, 10 were there' said
    # Other weights in the same place, of the same sizes: another model.
    cp -rL model replaced
    evaluate -q sensitivity replaced story.txt --context 32 --chi 4 --by kind -o lines
    size=$(stat -c %s replaced/model.safetensors)
    printf '\1' | dd of=replaced/model.safetensors bs=1 seek=$((size - 4)) conv=notrunc status=none
    evaluate sensitivity replaced story.txt --context 32 --chi 4 --by kind -o lines 2>said
    grep -q '7 lines written$' said
    refuses 64 'one operand only' evaluate sensitivity model - --moments - --chi 8
    (head -1 whole; echo nonsense; head -1 whole) >bad
    refuses 65 'bad, line 2' measure matrix -o bad
    refuses 64 'read once' evaluate sensitivity - story.txt --chi 8
    refuses 64 '--chi, --keep or --bits' evaluate sensitivity model story.txt
    refuses 64 '--group needs --bits' evaluate sensitivity model story.txt --chi 8 --group 32
    refuses 64 'stands twice' evaluate sensitivity model story.txt --chi 8,4 --chi 8
    refuses 64 "bits" evaluate sensitivity model story.txt --bits 7
    refuses 64 "doesn't belong to sensitivity" evaluate sensitivity model story.txt --chi 8 --shots 2
    refuses 64 "doesn't belong to kl" evaluate kl model model story.txt --chi 8
}

@test "sensitivities weigh the matrices" {
    make_curves
    "$PYTHON" -c 'import json
for layer, kl in (0, 8.0), (1, 0.5):
    for name in "q", "k":
        print(json.dumps({"by": "matrix", "kl": kl, "model": {}, "matrices": [
            {"name": f"model.layers.{layer}.self_attn.{name}_proj.weight", "error": 0.5, "norm": 2.0}]}))' >sensitivity
    allot -q --budget 3.2bpw --sensitivity sensitivity curves >plan
    [ "$(bits_of plan)" = 4422 ]
    for member in model moments data; do
        sed "2s/\"model\": {},/&\"$member\": {\"name\": \"other\"},/; s/\"model\": {},\(\"model\"\)/\1/" sensitivity >other
        refuses 65 "'other', line 2: the line is of another \"$member\"" allot --budget 3bpw --sensitivity other curves
    done
    refuses 65 'no line for any matrix' allot --budget 3bpw --sensitivity /dev/null curves
    refuses 64 'exclude each other' allot --budget 3bpw --sensitivity sensitivity --weight size curves
}
