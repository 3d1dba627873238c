#!/usr/bin/env bats
# quantize with moments, turns, residuals and plans; its curves.

load shared

setup_file() {
    cd "$BATS_FILE_TMPDIR" || exit 1
    model_with_moments
    quantize -q --bits 2 --group 32 --moments moments model -o q2.tns
    calibrate -q q2.tns text --reference model --context 256 --sequences 8 -o seq.moments
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    for file in model text moments q2.tns seq.moments; do
        ln -s "$BATS_FILE_TMPDIR/$file" .
    done
}

perplexity() {
    evaluate perplexity -q "$1" text --context 256 --limit-tokens 2048 | "$PYTHON" -c 'import json, sys
print(json.load(sys.stdin)["perplexity"])'
}

# below A B PART: A <= PART * B
below() {
    echo "$1 against $3 of $2"
    "$PYTHON" -c 'import sys; a, b, part = map(float, sys.argv[1:]); sys.exit(a > part * b)' "$@"
}

@test "with moments the model loses less" {
    dense=$(perplexity model)
    extract-layer model | quantize -q --bits 3 --group 32 -o nearest.tns
    nearest=$(perplexity nearest.tns)
    extract-layer model | quantize --bits 3 --group 32 --moments moments -o aware.tns 2>said
    grep -q '36 of 36 weights packed, .* relative error 0\.[0-9]*, of the layers. outputs 0\.0' said
    below "$(perplexity aware.tns)" "$nearest" 0.9
    quantize -q --bits 3 --group 32 --moments moments --rotate --seed 1 model -o turned.tns
    below "$(perplexity turned.tns)" "$nearest" 0.9
    tensor-info turned.tns | grep -q 'q_proj.weight .*q3-32-min 64x64 after hadamard 64'
    quantize -q --bits 3 --group 32 --moments moments --rotate=full --seed 1 model -o full.tns
    below "$(perplexity full.tns)" "$nearest" 0.9
    quantize -q --bits 2 --group 32 --moments moments --residual-chi 8 model -o residual.tns
    below "$(perplexity residual.tns)" "$(perplexity q2.tns)" 0.9
    quantize -q --bits 8 --moments moments --rotate --residual-chi 2 model -o fine.tns
    below "$(perplexity fine.tns)" "$dense" 1.01
    tensor-info --json fine.tns >info
    grep -q '"moments"' info
    [ "$(grep -c "$BATS_FILE_TMPDIR" info)" -eq 0 ]
}

@test "cores are rounded for the moments that reach them" {
    mpo-decompose -q --keep 0.8 --force --sites 2 model -o cores.tns
    quantize --bits 3 --group 32 cores.tns -o nearest.tns
    quantize --bits 3 --group 32 --moments moments cores.tns -o aware.tns 2>said
    grep -q 'of the layers. outputs 0\.' said
    evaluate kl -q nearest.tns cores.tns text --context 256 --limit-tokens 2048 >nearest
    evaluate kl -q aware.tns cores.tns text --context 256 --limit-tokens 2048 >aware
    below "$("$PYTHON" -c 'import json; print(json.load(open("aware"))["kl"])')" \
          "$("$PYTHON" -c 'import json; print(json.load(open("nearest"))["kl"])')" 0.8
}

@test "a folded turn: v and o differ, the model does not" {
    dense=$(perplexity model)
    quantize --bits 8 --group 32 --rotate --fold --seed 2 model -o folded.tns 2>said
    grep -q '5 turns folded' said
    tensor-info folded.tns >info
    grep -q 'o_proj.weight .*q8-32-min 64x64$' info
    grep -q 'v_proj.weight .*q8-32-min 32x64 after hadamard 64$' info
    below "$(perplexity folded.tns)" "$dense" 1.005
    below "$dense" "$(perplexity folded.tns)" 1.005
    quantize --bits 8 --group 32 --rotate=full --fold --seed 2 model -o folded-full.tns 2>said
    grep -q '5 turns folded' said
    tensor-info folded-full.tns >info
    grep -q 'o_proj.weight .*q8-32-min 64x64 before hadamard 64$' info
    grep -q 'v_proj.weight .*q8-32-min 32x64 after hadamard 64$' info
    below "$(perplexity folded-full.tns)" "$dense" 1.005
    below "$dense" "$(perplexity folded-full.tns)" 1.005
    run tensor-diff --tolerance 0.1 model folded.tns
    [ "$status" -eq 1 ]
    quantize -q --bits 8 --group 32 --rotate --seed 2 model | tensor-diff --tolerance 0.1 model -
    # What can't be folded is stored or refused.
    quantize --bits 8 --rotate --fold --match '*o_proj*' model -o stored.tns 2>said
    grep -q "can't be folded" said
    tensor-info stored.tns | grep -q 'o_proj.weight .* after hadamard 64$'
    mpo-decompose -q --keep 0.5 --force --match '*v_proj*' model -o cut.tns
    run quantize -q --rotate --fold cut.tns -o no.tns
    [ "$status" -eq 65 ]
    [[ $output == *v_proj.weight*"can't be folded"* ]]
    [ ! -e no.tns ]
}

@test "equal bytes for any number of threads" {
    for threads in 1 2 3; do
        quantize -q --threads $threads --bits 2 --group 32 --moments moments --rotate --residual-chi 4 --scale-bits 6 model \
            -o "t$threads.tns"
        mpo-decompose -q --threads $threads --chi 16 model | quantize -q --threads $threads --bits 3 --moments moments \
            -o "c$threads.tns"
    done
    cmp t1.tns t2.tns
    cmp t1.tns t3.tns
    cmp c1.tns c2.tns
    cmp c1.tns c3.tns
}

@test "curves tell what quantize then writes" {
    quantize --curves --bits 2,3 --group 32,64 --scale-bits 0,6 --rotate=0,64 --residual-chi 0,4 --match '*.layers.[12].*' \
        --moments moments model -o curves
    "$PYTHON" - <<'PY'
import json
lines = [json.loads(line) for line in open("curves")]
fixed = [line for line in lines if line.get("fixed")]
points = [line for line in lines if not line.get("fixed")]
assert len({(line["name"], line["plan"]) for line in points}) == len(points)
assert len({line["name"] for line in points}) == 14 and len(points) == 14 * 33, len(points)
assert all(line["bytes"] == 44032 and line["error"] == 0 for line in points if line["plan"] == "" and "gate" in line["name"])
assert sum(line["name"] == "model.layers.0.mlp.up_proj.weight" for line in fixed) == 1
assert [line for line in fixed if line["name"] == "model.embed_tokens.weight"] == [
    {"name": "model.embed_tokens.weight", "bytes": 131072, "parameters": 32768, "stored_parameters": 32768, "fixed": True}]
# One setting of each matrix as a plan, and what quantize says of it.
plan = {}
for line in points:
    if line["plan"]:
        plan.setdefault(line["name"], []).append(line)
with open("p.plan", "w") as out, open("expected", "w") as expected:
    for i, (name, settings) in enumerate(sorted(plan.items())):
        line = settings[(7 * i + 5) % len(settings)]
        print(name, line["plan"], file=out)
        print(name, line["bytes"], (line["error"] / line["norm"]) ** 0.5, file=expected)
PY
    quantize -v --plan p.plan --moments moments model -o planned.tns 2>said
    tensor-info --json planned.tns >info
    "$PYTHON" - <<'PY'
import json, re
stored = {tensor["name"]: tensor["bytes"] for tensor in json.load(open("info"))["tensors"]}
said = {}
for line in open("said"):
    match = re.match(r"quantize: '(.*)': .* weighted ([\d.e-]+)$", line)
    if match:
        said[match[1]] = float(match[2])
for line in open("expected"):
    name, size, error = line.split()
    assert stored[name] == int(size), (name, size)
    assert abs(said[name] - float(error)) <= 1e-5 * said[name], (name, error, said[name])
assert len(said) == 14
PY
    # The embedding as --embedding-bits packs it.
    quantize -q --curves --bits 4 model -o packed
    grep -q '"model.embed_tokens.weight","bytes":34816,' packed
    quantize -q --curves --bits 4 --embedding-bits keep model -o kept
    grep -q '"model.embed_tokens.weight","bytes":131072,' kept
    # Without moments the error is the squares'.
    quantize -q --curves --bits 3 --match '*.0.mlp.up_proj*' model -o plain
    quantize -q --bits 3 --match '*.0.mlp.up_proj*' model -o plain.tns
    run tensor-diff --tolerance 1 model plain.tns
    relative=$("$PYTHON" -c 'import json
line = [json.loads(l) for l in open("plain") if "bits=3" in l][0]
print("%.5g" % (line["error"] / line["norm"]) ** .5)')
    echo "$relative: $output"
    grep -q "up_proj.* error $relative," <<<"$output"
}

@test "codes and residual that together aren't smaller are left" {
    quantize -v --bits 8 --residual-chi 64 --residual-bits 16 --match '*.0.*[qk]_proj*' model -o out.tns 2>said
    [ "$(grep -c 'bytes packed against .*, kept' said)" -eq 2 ]
    tensor-diff model out.tns >/dev/null
    quantize -q --curves --bits 8 --residual-chi 0,64 --residual-bits 16 --match '*.0.*q_proj*' model -o curves
    [ "$(grep -c '"plan"' curves)" -eq 2 ]
}

@test "allot's plans say what quantize understands" {
    quantize -q --curves --bits 2,3,4 --group 32,64 --rotate=0,64 --moments moments model -o curves
    allot -q --budget 3.5bpw curves -o p.plan
    quantize -q --plan p.plan --moments moments model -o planned.tns
    bytes=$(tensor-info --json planned.tns | "$PYTHON" -c 'import json, sys
tensors = [t for t in json.load(sys.stdin)["tensors"] if "_proj" in t["name"]]
print(8 * sum(t["bytes"] for t in tensors) / sum(t["parameters"] for t in tensors))')
    below "$bytes" 3.5 1
    quantize -q --bits 2 --group 64 --moments moments model -o uniform.tns
    below "$(perplexity planned.tns)" "$(perplexity uniform.tns)" 1
}

@test "the sequential target is taken where the held-out error is lower" {
    quantize --bits 2 --group 32 --moments seq.moments --match '*.layers.[1-4].*' model -o seq.tns 2>said
    cat said
    grep -Eq ', [1-9][0-9]* by the sequential target' said
    quantize --bits 2 --group 32 --moments moments --match '*.layers.[1-4].*' model -o plain.tns 2>said
    [ "$(grep -c sequential said)" -eq 0 ]
}

@test "a plan with mixed widths, and --match beside it" {
    printf '%s\n' '*.q_proj.weight bits=3 group=32 scale_bits=6 rotate=16' '*.mlp.* bits=2 residual_chi=4 residual_bits=16' >p.plan
    quantize -q --plan p.plan --match '*.layers.0.*' model -o out.tns
    tensor-info out.tns >info
    grep -q 'layers.0.self_attn.q_proj.weight .*q3-32-min-s6 64x64 after hadamard 16' info
    grep -q 'layers.0.mlp.up_proj.weight .*q2-64-min 1x172x64x1.*f16 1x172x1x4 .*f16 4x1x64x1' info
    grep -q 'layers.0.self_attn.k_proj.weight .*f32 32x64' info
    grep -q 'layers.1.mlp.up_proj.weight .*f32 172x64' info
    tensor-info --json out.tns | grep -q '"match"'
}

@test "wrong combinations and missing moments are refused" {
    for options in "--bits 2,3" "--group 32,64" "--rotate=3" "--rotate=1" "--rotate=whole" "--rotate=-1" "--scale-bits 4" "--residual-bits 7 --residual-chi 2" \
                   "--residual-chi -1" "--fold" "--residual-bits 4" "--alternations 2" "--alternations 0 --residual-chi 2" \
                   "--inverse --moments moments" "--inverse --rotate" "--inverse --curves" "--curves --plan p" \
                   "--curves --rotate --fold" "--seed 3" "--curves --bits 2,2" "--curves --bits 2,7" "--plan p --rotate" \
                   "--plan p --residual-chi 2" "--curves --bits 2," "--moments - --plan -"; do
        # shellcheck disable=SC2086
        run quantize -q $options model
        [ "$status" -eq 64 ] || { echo "$options: $status: $output"; false; }
        [ "${#lines[@]}" -eq 1 ]
    done
    for options in "--moments -" "--plan -"; do
        # shellcheck disable=SC2086
        run quantize -q $options <model/config.json
        [ "$status" -eq 64 ]
        [[ $output == *"can be standard input" ]]
    done
    run quantize -q --moments nowhere model -o out.tns
    [ "$status" -eq 66 ]
    run quantize -q --moments text model -o out.tns
    [ "$status" -eq 65 ]
    calibrate -q model text --embedding --context 256 --sequences 2 --hidden-out hidden
    calibrate -q model --block 0 --hidden-in hidden -o first.moments
    run quantize -q --moments first.moments model -o out.tns
    [ "$status" -eq 65 ]
    [[ $output == *"model.layers.1."* ]]
    [ ! -e out.tns ]
    quantize -q --moments first.moments --match '*.layers.0.*' model -o out.tns
}
