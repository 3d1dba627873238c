#!/usr/bin/env bats
# mpo-decompose with moments: outputs instead of weights, the sequential target, residual terms, error curves, usage.

setup_file() {
    cd "$BATS_FILE_TMPDIR" || exit 1
    ln -s "$TOP/pipelines/models/stories260K" model
    for i in 1 2 3 4 5 6 7 8; do
        echo "Once upon a time, there was a little girl named Lily. She saw $i big dogs. The dog was sad, said Lily."
    done >text
    calibrate -q model text --context 32 -o moments
    mpo-decompose -q model --keep 0.5 --moments moments -o half.tns
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    for file in model text moments half.tns; do
        ln -s "$BATS_FILE_TMPDIR/$file" .
    done
}

# The number behind "of the layers' outputs" in the summary, in hundredths of a percent.
outputs() {
    [[ $output =~ of\ the\ layers\'\ outputs\ 0\.([0-9]{4}) ]]
    echo "$((10#${BASH_REMATCH[1]}))"
}

refuses() {
    local code=$1
    shift
    run "$@"
    echo "$*: exit $status: $output"
    [ "$status" -eq "$code" ]
    [ "${#lines[@]}" -eq 1 ]
}

@test "with moments the outputs change less, and the same for any number of threads" {
    run mpo-decompose model --keep 0.3 --moments moments -o aware.tns
    [ "$status" -eq 0 ]
    exact=$(outputs)
    run mpo-decompose model --keep 0.3 --shape auto --sites 3 --moments moments -o three.tns
    [ "$status" -eq 0 ]
    three=$(outputs)
    echo "matrix grouping $exact, three sites $three"
    [ "$exact" -gt 100 ]
    [ "$exact" -lt 4000 ]
    [ "$three" -gt 100 ]
    [ "$three" -lt 4000 ]
    mpo-decompose -q model --keep 0.3 -o plain.tns
    kl() { evaluate -q kl "$1" model text --context 256 --limit-tokens 512 | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["kl"])'; }
    "$PYTHON" -c "import sys; sys.exit(not $(kl aware.tns) < .9 * $(kl plain.tns))"
    mpo-decompose -q model --keep 0.3 --moments moments --threads 3 -o threads.tns
    cmp aware.tns threads.tns
    tensor-info aware.tns >/dev/null
}

@test "the verbose line tells plain and weighted errors, the history where moments come from" {
    run mpo-decompose -v model --keep 0.3 --moments moments --match '*layers.0.*q_proj*' -o out.tns
    [[ $output == *"relative error 0."*", weighted 0."* ]]
    run "$PYTHON" - <<'EOF'
import msgpack
unpacker = msgpack.Unpacker(open("out.tns", "rb"))
header = next(unpacker)
options = header["history"][-1]["options"]
assert options["moments"]["name"] == "moments", options
assert options["moments"]["history"]["program"] == "calibrate", options
EOF
    echo "$output"
    [ "$status" -eq 0 ]
}

@test "a tolerance is one of the outputs" {
    run mpo-decompose model --tolerance 0.2 --moments moments --force -o out.tns
    [ "$status" -eq 0 ]
    [[ $output =~ outputs\ 0\.[0-9]+,\ at\ most\ 0\.([0-9]{4}) ]]
    [ "$((10#${BASH_REMATCH[1]}))" -le 2000 ]
    [ "$((10#${BASH_REMATCH[1]}))" -ge 1000 ]
}

@test "the sequential target is counted" {
    calibrate -q half.tns text --context 32 --reference model -o pair
    run mpo-decompose -v model --keep 0.5 --moments pair -o out.tns
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *", sequential target"* ]]
    [[ ${lines[-1]} =~ ,\ [0-9]+\ by\ the\ sequential\ target$ ]]
    counted=$(sed -n 's/.*, \([0-9]*\) by the sequential target$/\1/p' <<<"$output")
    [ "$(grep -c ', sequential target' <<<"$output")" -eq "$counted" ]
}

@test "a residual term is added to codes, turned ones too" {
    for options in "" "--rotate=32"; do
        # shellcheck disable=SC2086
        quantize -q model --bits 2 --group 64 $options -o codes.tns
        run mpo-decompose codes.tns --chi 8 --residual --reference model --moments moments -o more.tns
        echo "$output"
        [ "$status" -eq 0 ]
        [[ $output == *"35 of 35 matrices given a term"* ]]
        with=$(outputs)
        run mpo-decompose more.tns --chi 1 --residual --reference model --moments moments -o again.tns
        echo "$output"
        [ "$(outputs)" -lt "$with" ]
        run mpo-decompose -q codes.tns --chi 8 --residual --reference model -o plain.tns
        [ "$status" -eq 0 ]
    done
}

@test "a reference without the matrix, or with another one, is refused" {
    quantize -q model --bits 4 -o codes.tns
    extract-layer model --layer 0 -o first.tns
    refuses 65 mpo-decompose -q codes.tns --chi 8 --residual --reference first.tns -o out.tns
    [[ $output == *"has no matrix 'model.layers.1."* ]]
    refuses 66 mpo-decompose -q codes.tns --chi 8 --residual --reference nowhere -o out.tns
    [ ! -e out.tns ]
    extract-layer model --layer 0 | mpo-decompose -q - --chi 8 --residual --reference model --force -o out.tns
    [ -e out.tns ]
}

@test "moments that lack a matrix are refused" {
    head -c 3000 moments >short
    refuses 65 mpo-decompose -q model --keep 0.5 --moments short -o out.tns
    refuses 65 mpo-decompose -q model --keep 0.5 --moments moments --match '*embed*' -o out.tns
    refuses 66 mpo-decompose -q model --keep 0.5 --moments nowhere -o out.tns
    [ ! -e out.tns ]
}

@test "curves tell what a plan's lines then give" {
    mpo-decompose -q model --keep 0.2,0.4,0.6 --moments moments --curves -o curves
    mpo-decompose -q model --chi 5,20 --dtype f32 --curves -o plain
    mpo-decompose -q model --curves -o usual
    printf '*.q_proj.weight keep=0.4\n*.down_proj.weight keep=0.2\n' >plan
    mpo-decompose -q model --plan plan --moments moments -o out.tns
    mpo-decompose -v model --plan plan --moments moments -o out.tns 2>log
    run "$PYTHON" - <<'EOF'
import json, re
read = lambda name: [json.loads(line) for line in open(name)]
curves, plain, usual = read("curves"), read("plain"), read("usual")
names = lambda lines: {line["name"] for line in lines}
assert names(curves) == names(plain) == names(usual)
points = [line for line in curves if "plan" in line]
assert {line["plan"] for line in points} == {"", "keep=0.2", "keep=0.4", "keep=0.6"}, points[:3]
assert {line["plan"] for line in plain if "plan" in line} == {"", "chi=5 dtype=f32", "chi=20 dtype=f32"}
assert all(line["fixed"] for line in curves if "plan" not in line)
assert not any("_proj" in line["name"] for line in curves if "plan" not in line)
of = {(line["name"], line["plan"]): line for line in points}
for name in {line["name"] for line in points}:
    errors = [of[name, plan]["error"] for plan in ("keep=0.2", "keep=0.4", "keep=0.6", "")]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0, errors
told = 0
for line in open("log"):
    found = re.search(r"'(\S+)': .*, (\d+) parameters of .*weighted ([\d.e-]+)", line)
    if found:
        point = of[found[1], "keep=0.4" if "q_proj" in found[1] else "keep=0.2"]
        assert point["parameters"] == int(found[2]) and point["bytes"] == 2 * int(found[2])
        assert abs((point["error"] / point["norm"]) ** 0.5 - float(found[3])) < 1e-3, (line, point)
        told += 1
assert told == 10, told
EOF
    echo "$output"
    [ "$status" -eq 0 ]
}

@test "a plan is restricted by --match" {
    printf '* keep=0.3\n' >plan
    run mpo-decompose model --plan plan --match '*layers.0.*q_proj*' -o out.tns
    [ "$status" -eq 0 ]
    [[ $output == *"1 of 1 matrices decomposed"* ]]
}

@test "what doesn't go together is misuse" {
    refuses 64 mpo-decompose model --keep 0.2,0.4
    refuses 64 mpo-decompose model --keep 0.2 --chi 4 --curves
    refuses 64 mpo-decompose model --keep 0.2,0.2 --curves
    refuses 64 mpo-decompose model --tolerance 0.2 --curves
    refuses 64 mpo-decompose model --curves --sites 3
    refuses 64 mpo-decompose model --curves --exact
    refuses 64 mpo-decompose model --keep 0.2 --residual
    refuses 64 mpo-decompose model --keep 0.2 --reference model
    refuses 64 mpo-decompose model --keep 0.2 --residual --reference -
    refuses 64 mpo-decompose --keep 0.2 --moments -
    refuses 64 mpo-decompose --keep 0.2 --plan -
    refuses 64 mpo-decompose model --plan - --moments -
    refuses 64 mpo-decompose model --keep 0.2 --exact --moments moments
    refuses 64 mpo-decompose model --keep 0.2 --seed 1 --moments moments
    refuses 64 mpo-decompose model --keep 0.2 --seed 1 --exact
    refuses 64 mpo-decompose model --keep 0.2 --seed 1 --curves
    mpo-decompose -q model --keep 0.2 --seed 1 --sites 3 --moments moments --match '*.0.*k_proj*' -o out.tns
}
