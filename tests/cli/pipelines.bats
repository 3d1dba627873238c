# The graphs: the grammar of sentences, what is redone and what is not, and the scripts that the graphs call.

setup() {
    R=$BATS_TEST_TMPDIR/runs
    cd "$TOP" || exit
}

teardown() {
    [ -z "${server-}" ] || kill "$server" || true
}

graph() {
    make --no-print-directory V= R="$R" "$@"
}

# The streams of a run, by content; histories name no paths, so two folders can be compared.
contents() {
    (cd "$R/$1" && find . -type f ! -name sizes.json ! -name sentence -exec sha256sum {} + | sort -k2)
}

@test "a plan shows the sentence of each layer and writes nothing" {
    run graph -n stories-chi16-q8
    [ "$status" -eq 0 ]
    [ "$(grep -c 'extract-layer .*| mpo-decompose .*--chi 16 .*| quantize .*--bits 8 .*-o .*/layer-0[0-4].tns' <<<"$output")" -eq 5 ]
    [ ! -e "$R" ]
}

@test "steps become programs from left to right, modifiers their options" {
    run graph -n stories-keep50-sites3-q4-g32-zmin
    [[ $output == *'| mpo-decompose '*'--keep 50e-2 --sites 3 | quantize '*'--bits 4 --group 32 --zero min '* ]]
}

# refused TARGET WORDS: make says no, in one line with these words, before it does anything.
refused() {
    local said
    if said=$(graph "$1" 2>&1) || [[ $said == *$'\n'* || $said != *"$2"* || -e $R ]]; then
        echo "$1: $said"
        return 1
    fi
}

@test "a step that has nothing left to act on is refused by name" {
    refused stories-q4-chi8 "step 'chi8' can't stand behind 'q4'"
    refused stories-q4-g32-chi8 "step 'chi8' can't stand behind 'q4'"
    refused stories-chi8-q4-chi16 "step 'chi16' can't stand behind 'q4'"
    refused stories-chi8-sites3-keep50 "step 'keep50' can't stand behind 'chi8'"
    refused stories-chi4-sites17 "N is one of 2"
    refused stories-keep200 "N is one of 1"
    graph -n stories-seed-chi4 > /dev/null
    refused stories-q4-q8 "step 'q8' can't stand behind 'q4'"
    refused "$R/stories/q4-q8/sizes.json" "step 'q8' can't stand behind 'q4'"
}

@test "an option's step stands behind its program's step, once" {
    refused stories-g32 "step 'g32' must stand behind qN"
    refused stories-sites3-chi4 "step 'sites3' must stand behind chiN or keepN"
    refused stories-chi4-q4-sites3 "step 'sites3' must stand behind chiN or keepN, not behind 'q4'"
    refused stories-chi4-zint-q4 "step 'zint' must stand behind qN, not behind 'chi4'"
    refused stories-q4-g32-g64 "step 'g64': 'q4' has that option already"
    refused stories-q4-zmin-zint "step 'zint': 'q4' has that option already"
}

@test "empty steps and numbers that are none are refused" {
    for sentence in stories- stories-chi8- stories--chi8 stories-chi8--q4; do
        refused "$sentence" "empty step in '-${sentence#stories-}'"
    done
    refused stories-chi008 "step 'chi008': numbers begin at 1"
    refused stories-chi8-q4-g0 "step 'g0': numbers begin at 1"
    refused stories-q7 "step 'q7': N is one of 2 3 4 5 6 8"
}

@test "a plan whose name a sentence can't have is not listed" {
    cp -rL Makefile pipelines "$BATS_TEST_TMPDIR"
    cd "$BATS_TEST_TMPDIR"
    echo '* chi=4' >pipelines/plans/mine.plan
    echo '* chi=4' >pipelines/plans/my-own.plan
    graph help >text
    grep -q '^  mine ' text
    run grep my-own text
    [ "$status" -ne 0 ]
}

@test "variables come from the call and not from the environment" {
    [ "$(MODEL=/nowhere B=/nowhere BIN=/nowhere/bin make -n clean B="$R/b" BIN="$R/b/bin")" = "rm -rf $R/b $R/b/bin" ]
    run env -u MAKEFLAGS B=/nowhere BIN=/nowhere R=/nowhere THREADS=99 make -n stories-chi8 clean
    [[ $output != *nowhere* && $output != *99* ]]
    MODEL=pipelines/models/stories260K refused my-chi8 "unknown model 'my'"
}

@test "layers are counted for a goal that needs them, and for no other" {
    for variable in MODEL GRANITE SMOLLM2; do
        graph "$variable=/nowhere" help >/dev/null
        graph "$variable=/nowhere" -n stories-chi8 >/dev/null
        graph "$variable=/nowhere" -n clean >/dev/null
    done
    run graph GRANITE=/nowhere -n granite-chi8
    [ "$status" -ne 0 ]
    [[ $output == *"cannot tell how many layers '/nowhere' has"* ]]
}

@test "paths that make can't take are refused in one line" {
    # shellcheck disable=SC2016 # the dollar is meant
    for path in 'a b' $'a\tb' "a'b" 'a"b' 'a$b' 'a#b' 'a:b' 'a%b' 'a(b' 'a;b'; do
        for variable in MODEL GRANITE SMOLLM2 R; do
            run make "$variable=$path" help
            [ "$status" -ne 0 ]
            [ "${#lines[@]}" -eq 1 ]
            [[ $output == *"$variable is [$path]: "* ]] || { echo "$output"; false; }
        done
    done
    run make R= help
    [[ $output == *'R is empty'* ]]
}

@test "a plan's file is a step" {
    run graph -n stories-seed-q4
    [[ $output == *'| mpo-decompose '*'--plan pipelines/plans/seed.plan | quantize '*'--bits 4 '* ]]
}

@test "an unknown step is refused by name, with the list" {
    for sentence in stories-chi16-bogus7 stories-chi stories-seed5 stories-chi1x; do
        run graph "$sentence"
        [ "$status" -ne 0 ]
        [[ $output == *"unknown step '${sentence##*-}'"*chiN* ]]
    done
    [ ! -e "$R" ]
}

@test "an unknown model is refused by name, with the list" {
    run graph nobody-chi16
    [ "$status" -ne 0 ]
    [[ $output == *"unknown model 'nobody'"*stories*smollm2*granite* ]]
}

@test "an unknown target is no sentence" {
    run graph nonsense
    [ "$status" -ne 0 ]
}

@test "help lists targets, steps, plans, and variables with values, and writes nothing" {
    run graph help
    [ "$status" -eq 0 ]
    for word in demo check install chiN seed LAUNCH "[$R" smollm2; do
        [[ $output == *"$word"* ]] || { echo "$word"; false; }
    done
    [ ! -e "$R" ]
}

@test "models that are not there yet have plans too" {
    [ "$(graph -n smollm2-chi100 | grep -c 'layer-[0-9]*.tns$\|layer-[0-9]*.tns.$')" -ge 30 ]
    [ "$(graph -n granite-chi100 | grep -c 'layer-[0-9]*.tns$\|layer-[0-9]*.tns.$')" -ge 40 ]
    [ ! -e "$R" ]
}

@test "a sentence is built once; a deleted layer is redone alone" {
    graph -j2 stories-chi16-q8
    [ -e "$R/stories/chi16-q8/model/model.safetensors" ]
    python3 -m json.tool "$R/stories/chi16-q8/sizes.json" >/dev/null
    contents stories/chi16-q8 >before

    graph -q "$R/stories/chi16-q8/sizes.json"
    run graph stories-chi16-q8
    [[ $output != *PIPE* && $output != *JOIN* && $output != *MEASURE* ]]

    rm "$R/stories/chi16-q8/layer-02.tns"
    run graph stories-chi16-q8
    [ "$(grep -c PIPE <<<"$output")" -eq 1 ]
    [[ $output == *layer-02.tns* && $output == *JOIN* && $output == *MEASURE* ]]
    contents stories/chi16-q8 | diff before -
    rm before
}

@test "a file that the model has lost is noticed" {
    graph stories-chi8
    contents stories/chi8 >"$BATS_TEST_TMPDIR/whole"
    for file in model.safetensors tokenizer.json; do
        rm "$R/stories/chi8/model/$file"
        run graph stories-chi8
        [[ $output == *JOIN* && $output == *MEASURE* && $output != *PIPE* ]]
        contents stories/chi8 | diff "$BATS_TEST_TMPDIR/whole" -
    done
    run graph stories-chi8
    [[ $output != *JOIN* && $output != *MEASURE* ]]
}

@test "any number of jobs gives the same bytes" {
    graph stories-chi8
    contents stories/chi8 >"$BATS_TEST_TMPDIR/one"
    rm -r "$R"
    graph -j64 stories-chi8
    contents stories/chi8 | diff "$BATS_TEST_TMPDIR/one" -
}

@test "dense and svd stand where they mean something" {
    refused stories-dense-q4 "step 'dense' in 'dense-q4' stands alone"
    refused stories-chi4-dense "step 'dense' in 'chi4-dense' stands alone"
    for sentence in svd q4-svd chi4-svd-q4 chi4-svd-svd; do
        refused "stories-$sentence" "step 'svd' in '$sentence' must stand last, behind chiN, keepN or a plan that cuts"
    done
}

@test "the step svd: matrix SVDs with as many parameters, packed alike" {
    graph -j2 stories-chi16-sites3-q8-svd stories-chi16-sites3-q8
    [ "$(cat "$R/stories/chi16-sites3-q8-svd/sentence")" = "extract-layer pipelines/models/stories260K \
| mpo-decompose --plan $R/stories/chi16-sites3-q8/svd.plan | quantize --bits 8" ]
    python3 - "$R/stories" <<'PYTHON'
import json, sys
run, svd = (json.load(open(f"{sys.argv[1]}/chi16-sites3-q8{end}/sizes.json")) for end in ("", "-svd"))
assert run["matrices"]["matrix_svd"] == 0, run["matrices"]
assert all(svd["matrices"][key] == 35 for key in ("count", "cut", "matrix_svd", "packed")), svd["matrices"]
numbers = [r["linear"]["stored_parameters"] for r in (run, svd)]
assert abs(numbers[1] / numbers[0] - 1) < 0.01, numbers
PYTHON
    run graph stories-chi16-sites3-q8-svd
    [[ $output != *PIPE* && $output != *PLAN* && $output != *JOIN* && $output != *MEASURE* ]]
}

@test "a model of one's own; another one under the same name is another sentence" {
    cp -r pipelines/models/stories260K "$BATS_TEST_TMPDIR/other"
    graph MODEL=pipelines/models/stories260K my-q4
    run graph MODEL=pipelines/models/stories260K my-q4
    [[ $output != *PIPE* ]]
    run graph MODEL="$BATS_TEST_TMPDIR/other" my-q4
    [ "$(grep -c PIPE <<<"$output")" -eq 6 ]
    touch -d '+2 seconds' "$BATS_TEST_TMPDIR/other/model.safetensors"
    [ "$(graph -n MODEL="$BATS_TEST_TMPDIR/other" my-q4 | grep -c 'extract-layer .* -o')" -eq 6 ]
    [ "$(graph -n GRANITE="$BATS_TEST_TMPDIR/other" granite-q4 | grep -c 'extract-layer .* -o')" -eq 6 ]
    run graph MODEL="$BATS_TEST_TMPDIR/nowhere" my-q4
    [ "$status" -ne 0 ]
    [[ $output == *nowhere* ]]
}

@test "sizes add up" {
    graph stories-chi16-q8
    python3 - "$R/stories/chi16-q8" <<'PYTHON'
import json, os, sys
report = json.load(open(sys.argv[1] + "/sizes.json"))
groups, whole = report["groups"], report["whole"]
assert sum(g["parameters"] for g in groups) == whole["parameters"] == report["source"]["parameters"] == 260032, groups
assert report["source"]["bytes"] == os.path.getsize("pipelines/models/stories260K/model.safetensors")
disk = sum(e.stat().st_size for e in os.scandir(sys.argv[1] + "/model") if e.name.endswith(".safetensors"))
assert whole["bytes"] == disk, (whole, disk)
assert sum(g["bytes"] for g in groups) + report["headers"]["bytes"] == disk, report
with open(sys.argv[1] + "/model/model.safetensors", "rb") as file:
    assert report["headers"]["bytes"] == 8 + int.from_bytes(file.read(8), "little")
svds = report["matrices"].pop("matrix_svd")
assert report["matrices"] == {"count": 35, "cut": 35, "packed": 35, "residual": 0, "turned": 0, "kept": 0}, report["matrices"]
assert 0 < svds <= 35, svds
assert report["bpw_model"] == 8 * disk / 260032
linear = [g for g in groups if g["name"].startswith(("attention", "MLP"))]
assert len(linear) == 7
assert report["bpw_linear"] == 8 * sum(g["bytes"] for g in linear) / sum(g["parameters"] for g in linear)
assert 0 < report["error"] < 1
assert all(0 < g["error"] < 1 for g in linear), linear
PYTHON
    pipelines/table "$R/stories/chi16-q8/sizes.json" | grep -q '^attention q  *81,920\|^attention q  *20,480'
}

@test "a table says which matrices stayed as they were, and what is stored wider than 16 bits" {
    graph stories-seed >table
    grep -q '^35 of 35 matrices kept as they were; 0 cut into cores, 0 packed' table
    grep -q '^embedding, attention q, .*: stored as f32, as the source has it' table
    graph stories-chi8-q8 >table
    grep -q '^0 of 35 matrices kept as they were; 35 cut into cores, 35 packed' table
    run grep 'stored as f32' table
    [ "$status" -ne 0 ]
    rm table
}

# graph, looking at a little text, and choosing from few settings.
aware() {
    graph CALIBRATION=pipelines/data/shakespeare.txt SEQUENCES=4 CALIBRATION_CONTEXT=128 CUT_CURVES='--keep .4,.7' \
        PACK_CURVES='--bits 2,3,4 --group 32 --scale-bits 6' "$@"
}

# measured RUN EXPRESSION: of its sizes.json, a Python expression of linear, whole, matrices, headers, bpw_linear, ...
measured() {
    python3 -c 'import json, sys; print(eval(sys.argv[2], json.load(open(sys.argv[1]))))' "$R/stories/$1/sizes.json" "$2"
}

@test "the plan of a sentence that looks: moments of the model once, for all programs and each layer; nothing is written" {
    run aware -n stories-keep60-q8-aware-dense
    [ "$status" -eq 0 ]
    [ "$(grep -c "slot --all 'calibrate .*shakespeare.txt --sequences 4 .*-o $R/stories/dense/moments'" <<<"$output")" -eq 1 ]
    [ "$(grep -c -- "--layer [0-4] .*mpo-decompose .*--moments $R/stories/dense/moments .*quantize .*--moments $R/stories/dense/moments" \
        <<<"$output")" -eq 5 ]
    [ "$(grep -c 'layer rest .*--moments' <<<"$output")" -eq 0 ]
    [ "$(aware -n stories-q3-aware-sequential | grep -c 'slot --all .pipelines/aware-block sequential [0-4]/5 ')" -eq 5 ]
    [ "$(aware -n stories-q3-aware AWARE=cross | grep -c 'aware-block cross ')" -eq 5 ]
    # By itself it looks sequentially where it cuts.
    for sentence in keep60-aware chi8-q8-aware p50 p50-q8; do
        [ "$(aware -n "stories-$sentence" | grep -c 'aware-block sequential ')" -eq 5 ]
    done
    for sentence in q3-aware t2-aware 2.5bpw keep60-aware-dense chi8-progressive; do
        [ "$(aware -n "stories-$sentence" | grep -c 'aware-block')" -eq 0 ]
    done
    for sentence in smollm2-2.5bpw smollm2-60.5MB granite-2.5bpw smollm2-p50-q8 smollm2-chi100-progressive; do
        aware -n "$sentence" >/dev/null
    done
    [ "$(aware -n granite-2.5bpw | grep -c 'aware-block \(curves\|dense\) [0-9]*/40 ')" -eq 80 ]
    [ ! -e "$R" ]
}

@test "how to look is said last, budgets have a point, and what was said is said once" {
    refused stories-aware "step 'aware' in 'aware' must stand last, behind chiN, keepN, qN or a plan"
    refused stories-aware-q3 "step 'aware' in 'aware-q3' must stand last"
    refused stories-q3-aware-progressive "step 'aware' in 'q3-aware-progressive' must stand last"
    refused stories-progressive "step 'progressive' in 'progressive' must stand last"
    refused stories-dense-aware "step 'dense' in 'dense-aware' stands alone"
    refused stories-chi8-progressive-svd "step 'svd' in 'chi8-progressive-svd' must stand last"
    refused stories-q3-sequential "unknown step 'sequential'"
    for step in 3bpw 3.bpw .5bpw 2.5.1bpw x2.5bpw 60MB; do
        refused "stories-$step" "unknown step '$step'"
    done
    refused stories-0.5bpw "step '0.5bpw': numbers begin at 1"
    refused stories-p101 "N is one of 1 2"
    refused stories-2.5bpw-p50 "step 'p50' can't stand behind '2.5bpw'"
    refused stories-q3-s7 "step 's7': N is one of 6 8"
    refused stories-chi8-rotate "step 'rotate' must stand behind qN, not behind 'chi8'"
    refused stories-r8 "step 'r8' must stand behind qN"
    refused stories-chi8-balanced-crossed "step 'crossed': 'chi8' has that option already"
    for wrong in AWARE=maybe CALIBRATION=nowhere CALIBRATION=a:b PEERS=a:b; do
        run graph "$wrong" -n stories-q3-aware
        [ "$status" -ne 0 ]
        [ "${#lines[@]}" -eq 1 ]
        [[ $output == *"${wrong%%=*}"* ]]
    done
}

@test "a look at the model as it came: made once, redone where its settings change, deleted without harm" {
    aware -j2 stories-keep60-q8-aware-dense stories-q3-rotate-r4-s8-aware >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c LOOK "$BATS_TEST_TMPDIR/said")" -eq 1 ]
    [ "$(measured keep60-q8-aware-dense 'matrices["cut"], matrices["packed"], matrices["residual"], matrices["turned"]')" = "(35, 35, 0, 0)" ]
    [ "$(measured q3-rotate-r4-s8-aware 'matrices["cut"], matrices["packed"], matrices["residual"], matrices["turned"]')" = \
        "(0, 35, 35, 35)" ]
    grep -q '^35 have a term for what the first one loses, 35 are turned' "$BATS_TEST_TMPDIR/said"
    tensor-info --json "$R/stories/keep60-q8-aware-dense/model" | grep -q '"moments"'
    rm "$R/stories/dense/moments"
    run aware stories-keep60-q8-aware-dense
    [[ $output != *LOOK* && $output != *PIPE* ]]
    rm "$R/stories/keep60-q8-aware-dense/layer-03.tns"
    run aware stories-keep60-q8-aware-dense SEQUENCES=2
    [ "$(grep -c LOOK <<<"$output")" -eq 1 ]
    [ "$(grep -c PIPE <<<"$output")" -eq 5 ]
}

@test "block after block: a killed graph goes on where it was, a layer that is lost is made anew, to the same bytes" {
    aware stories-q3-aware-sequential >/dev/null
    contents stories/q3-aware-sequential >"$BATS_TEST_TMPDIR/whole"
    grep -q '| quantize --bits 3 # sequential: calibrate .*shakespeare.txt --sequences 4 --context 128$' \
        "$R/stories/q3-aware-sequential/sentence"
    [ -z "$(find "$R" -name '*states*' -o -name '.block*')" ]
    rm "$R/stories/q3-aware-sequential/layer-03.tns"
    run aware stories-q3-aware-sequential
    [ "$(grep -c BLOCK <<<"$output")" -eq 2 ]
    contents stories/q3-aware-sequential | diff "$BATS_TEST_TMPDIR/whole" -

    rm -r "$R"
    setsid make --no-print-directory V= R="$R" CALIBRATION=pipelines/data/shakespeare.txt SEQUENCES=4 CALIBRATION_CONTEXT=128 \
        stories-q3-aware-sequential >/dev/null 2>&1 3>&- &
    until [ -e "$R/stories/q3-aware-sequential/layer-01.tns" ]; do sleep 0.02; done
    kill -KILL -- "-$!"
    wait || true
    [ ! -e "$R/stories/q3-aware-sequential/model" ]
    run aware stories-q3-aware-sequential
    [ "$(grep -c BLOCK <<<"$output")" -le 4 ]
    contents stories/q3-aware-sequential | diff "$BATS_TEST_TMPDIR/whole" -
    [ -z "$(find "$R" -name '*states*' -o -name '.block*')" ]
}

@test "beside the model as it came, and a model too large to keep its moments: by blocks" {
    aware stories-keep50-q8-aware-cross >/dev/null
    [ "$(measured keep50-q8-aware-cross 'matrices["cut"], matrices["packed"]')" = "(35, 35)" ]
    aware SENSITIVITY= stories-3.5bpw >/dev/null
    aware GRANITE=pipelines/models/stories260K granite-3.5bpw >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c 'BLOCK\|CURVES' "$BATS_TEST_TMPDIR/said")" -eq 11 ]
    diff <(grep -v '^#' "$R/stories/3.5bpw/budget.plan") <(grep -v '^#' "$R/granite/3.5bpw/budget.plan")
    tensor-diff --tolerance 1e-6 "$R/stories/3.5bpw/model" "$R/granite/3.5bpw/model"
    [ -z "$(find "$R/granite" -name '*states*' -o -name 'moments' -o -name '.block*')" ]
}

@test "budgets: of bits per linear weight, of bytes in all, of parameters; the curves are made once" {
    aware -j2 stories-3.5bpw stories-150.0KB stories-p60 >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c CURVES "$BATS_TEST_TMPDIR/said")" -eq 6 ]
    [ "$(measured 3.5bpw '3.2 < bpw_linear <= 3.5 and matrices["packed"] == 35')" = True ]
    [ "$(measured 150.0KB '140000 < whole["bytes"] - headers["bytes"] <= 150000')" = True ]
    [ "$(measured p60 '0.55 < linear["stored_parameters"] / linear["parameters"] <= 0.6 and matrices["packed"] == 0')" = True ]
    [ "$(measured 3.5bpw 'groups[0]["types"]')" = "['q8-64-min']" ]
    [[ $(pipelines/budget "$R/stories/3.5bpw/sizes.json") =~ ^1[0-9][0-9]\.[0-9]KB$ ]]
    [ "$(grep -c '"by": *"matrix".*"bits=2 ' "$R/stories/dense/sensitivity-packed")" -eq 35 ]
    [ "$(grep -c '"by": *"matrix".*"keep=0.3"' "$R/stories/dense/sensitivity-cut")" -eq 35 ]
    run aware stories-3.5bpw
    [[ $output != *CURVES* && $output != *ALLOT* && $output != *PIPE* ]]
}

@test "budgets: errors weighed by how much the model minds them, or alike; a killed look goes on" {
    aware stories-3.0bpw >/dev/null
    head -20 "$R/stories/dense/sensitivity-packed" >"$R/stories/dense/sensitivity-packed.part"
    rm "$R/stories/dense/sensitivity-packed"
    aware stories-3.0bpw >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c 'LOOK' "$BATS_TEST_TMPDIR/said")" -eq 1 ]
    [ "$(wc -l <"$R/stories/dense/sensitivity-packed")" -eq 35 ]
    [ ! -e "$R/stories/dense/sensitivity-packed.part" ]
    grep -v '^#' "$R/stories/3.0bpw/budget.plan" >"$BATS_TEST_TMPDIR/weighed"
    aware SENSITIVITY= stories-3.0bpw >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c 'LOOK' "$BATS_TEST_TMPDIR/said")" -eq 0 ]
    run diff "$BATS_TEST_TMPDIR/weighed" <(grep -v '^#' "$R/stories/3.0bpw/budget.plan")
    [ "$status" -eq 1 ]
    run aware SENSITIVITY=layer stories-3.0bpw
    [ "$status" -ne 0 ]
    [[ $output == *"SENSITIVITY is 'layer'"* ]]
}

@test "progressive: each stage looks at the result of the one before" {
    aware -j2 stories-chi16-progressive >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c LOOK "$BATS_TEST_TMPDIR/said")" -eq 3 ]
    [ "$(measured chi16-progressive 'matrices["cut"]')" = 35 ]
    [ "$(cat "$R/stories/chi16-progressive/sentence")" = "extract-layer $R/stories/chi16-progressive2/model \
| mpo-decompose --moments $R/stories/chi16-progressive2/moments --match \\*.self_attn.[kv]_proj.weight --chi 16" ]
    [ "$(tensor-info "$R/stories/chi16-progressive1/model" | grep -c 'mlp.*_proj.* f16')" -eq 15 ]
    [ "$(tensor-info "$R/stories/chi16-progressive1/model" | grep -c 'self_attn.*_proj.* f16')" -eq 0 ]
    [ "$(tensor-info "$R/stories/chi16-progressive2/model" | grep -c '_proj.* f16')" -eq 25 ]
}

@test "shapes: as many parameters each, by a plan" {
    graph -j2 stories-chi16-matrix stories-chi16-balanced-sites3 stories-chi16-crossed-q8 >/dev/null
    grep -q '^model.layers.0.self_attn.q_proj.weight  shape=64x1,1x64 keep=0.5$' "$R/stories/chi16-matrix/shape.plan"
    grep -q 'self_attn.q_proj.weight  shape=4x4,4x4,4x4 keep=0.5$' "$R/stories/chi16-balanced-sites3/shape.plan"
    grep -q 'self_attn.q_proj.weight  shape=16x4,4x16 keep=0.5$' "$R/stories/chi16-crossed-q8/shape.plan"
    for run in chi16-matrix chi16-balanced-sites3 chi16-crossed-q8; do
        [ "$(measured "$run" '0.36 < linear["stored_parameters"] / linear["parameters"] < 0.42')" = True ]
    done
    run graph stories-chi16-matrix
    [[ $output != *PIPE* && $output != *PLAN* ]]
}

@test "frontier and ablation: a table of the reports, and plots where there is gnuplot" {
    local table=$R/stories/frontier.tsv path=$BATS_TEST_TMPDIR/path peers=$BATS_TEST_TMPDIR/peers
    echo '{"name": "other", "bpw_linear": 3.5, "perplexity": 77.125, "kl": null}' >"$peers"
    sweep() {
        aware -j2 FRONTIER_MODEL=stories TEXT=pipelines/data/shakespeare.txt CONTEXT=128 TOKENS=400 KL_TOKENS=400 "$@"
    }
    sweep frontier FRONTIER='dense q4 q3-aware' PEERS="$peers" || ! command -v gnuplot
    [ "$(cut -f1 "$table" | sort | xargs)" = 'dense name other+ q3-aware q4' ]
    grep -q $'^other+\t3.500\t.*\t77.12\t' "$table"
    if command -v gnuplot; then
        grep -q q3-aware "$R/stories/frontier-kl.svg"
    fi
    mkdir "$path"
    interpreter=$(python3 -c 'import sys; print(sys.executable)')
    PATH=$path run "$interpreter" pipelines/frontier "$R/stories/q4/report.json" --plot "$path/plot" -o "$path/table"
    [ "$status" -eq 69 ]
    [[ $output == *'gnuplot is not installed'* ]]
    [ "$(wc -l <"$path/table")" -eq 2 ]
    sweep ablation CHI=8 SITES=2 SHAPES='matrix crossed' BITS=8
    [ "$(cut -f1 "$R/stories/ablation.tsv" | sort | xargs)" = \
        'chi8-crossed-q8 chi8-crossed-q8-aware-dense chi8-matrix-q8 chi8-matrix-q8-aware-dense dense name' ]
}

@test "slots: a sentence that wants them all waits for the others, and they for it" {
    export SLOTS=3 TMPDIR=$BATS_TEST_TMPDIR
    cd "$BATS_TEST_TMPDIR"
    mkdir running
    for all in '' '' --all '' '' --all ''; do
        "$TOP/pipelines/slot" $all "touch running/\$\$; ls running | wc -l >>most$all; sleep 0.1; rm running/\$\$" &
        sleep 0.02
    done
    wait
    [ "$(sort -u most--all)" = 1 ]
    [ "$(wc -l <most)" -eq 5 ]
}

# Data sets of a few documents each, in the form of their makers, under $BATS_TEST_TMPDIR/data.
documents() {
    local data=$BATS_TEST_TMPDIR/data split i
    mkdir -p "$data"/mmlu/{dev,val,test}
    head -c 3000 pipelines/data/shakespeare.txt >"$data/wiki.test.raw"
    for i in 1 2 3; do
        echo '{"ind": '$i', "activity_label": "Sailing", "ctx_a": "A boat is seen.", "ctx_b": "it", "label": '$i',' \
            '"endings": ["sinks.", "sails on.", "flies.", "sings."]}' >>"$data/hellaswag_val.jsonl"
        echo '{"question": "is the sea wet", "title": "Sea", "answer": true, "passage": "The sea is water."}' \
            >>"$data/boolq_dev.jsonl"
        echo '{"question": "Who has the boat?", "answers": ["Tom", "Thomas"]}' >>"$data/triviaqa_open_test.jsonl"
        for split in dev val test; do
            echo "What is $i + 1?,$i,$((i + 1)),$((i + 2)),$((i + 3)),B" >>"$data/mmlu/$split/abstract_algebra_$split.csv"
        done
    done
    for i in 1 2 3 4 5 6; do                         # five of GSM8K's are examples
        printf '{"question": "%s", "answer": "He has %d+1=<<%d+1=%d>>%d.\\n#### %d"}\n' \
            "Tom has $i boats and gets one. How many has he?" $i $i $((i + 1)) $((i + 1)) $((i + 1)) >>"$data/gsm8k_train.jsonl"
    done
    head -3 "$data/gsm8k_train.jsonl" >"$data/gsm8k_test.jsonl"
}

@test "a report: each measurement is a file, made once, and all beside the source and the matrix SVD" {
    documents
    graph -j2 stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c EVAL "$BATS_TEST_TMPDIR/said")" -eq 20 ]
    grep -q '^dense  *260,032 ' "$BATS_TEST_TMPDIR/said"
    grep -q '^chi8-sites3: matrix SVD ' "$BATS_TEST_TMPDIR/said"
    grep -q '^chi8-sites3\*  *[0-9,]* ' "$BATS_TEST_TMPDIR/said"
    grep -q 'plain way' "$BATS_TEST_TMPDIR/said"
    python3 - "$R/stories" <<'PYTHON'
import json, sys
for steps in ("dense", "chi8-sites3", "chi8-sites3-svd"):
    report = json.load(open(f"{sys.argv[1]}/{steps}/report.json"))
    tasks = {"hellaswag", "boolq", "mmlu", "triviaqa", "gsm8k"}
    assert set(report) == {"model", "steps", "sizes", "perplexity"} | tasks | (set() if steps == "dense" else {"kl"}), report.keys()
    assert (report["model"], report["steps"]) == ("stories", steps)
    assert report["perplexity"]["perplexity"] > 1
    # MMLU's limit is spread over 57 subjects; this has one.
    assert all(report[task]["count"] == (1 if task == "mmlu" else 2) for task in tasks), report
PYTHON

    run graph stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256
    [[ $output != *EVAL* && $output != *REPORT* && $output != *'up to date'* ]]
    diff <(grep -A9 ^stories260K "$BATS_TEST_TMPDIR/said") <(echo "$output")

    rm "$R/stories/chi8-sites3/boolq.json"
    graph stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 >"$BATS_TEST_TMPDIR/said"
    [ "$(grep EVAL "$BATS_TEST_TMPDIR/said")" = "  EVAL    $R/stories/chi8-sites3/boolq.json" ]
    [ "$(grep -c REPORT "$BATS_TEST_TMPDIR/said")" -eq 1 ]

    graph stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 TASKS= BASELINES= TOKENS=300 \
        KL_TOKENS=300 >"$BATS_TEST_TMPDIR/said"                          # one window: no standard error
    [ "$(grep EVAL "$BATS_TEST_TMPDIR/said" | sort)" = "$(printf "  EVAL    $R/stories/chi8-sites3/%s.json\n" kl perplexity)" ]
    run graph table
    [ "$(grep -c 'measured in different ways' <<<"$output")" -eq 2 ]
    [ "$(sed -n '3,5s/  .*//p' <<<"$output")" = $'dense\nchi8-sites3: matrix SVD\nchi8-sites3*' ]
}

@test "a report's plan shows the measurements and touches no network" {
    run graph -n smollm2-chi100.report
    [ "$status" -eq 0 ]
    [ "$(grep -c "^pipelines/slot 'evaluate " <<<"$output")" -eq 20 ]
    [[ $output == *'pipelines/fetch-data '*wiki.test.raw* && $output == *'evaluate mmlu '*'--limit 1 '* ]]
    [ "$(grep -c "^pipelines/slot 'evaluate " <<<"$(graph -n smollm2-q8.report LIMIT= TASKS=boolq)")" -eq 5 ]
    [ ! -e "$R" ]
}

@test "what a report is told is checked first" {
    for wrong in TASKS=chess LIMIT=0 LIMIT=x CONTEXT=1.5 'TOKENS=1 2' KL_TOKENS=-1 BASELINES=all 'DATA=a b' TEXT=a:b TEXT=nowhere; do
        run graph "$wrong" -n stories-chi8.report
        [ "$status" -ne 0 ]
        [ "${#lines[@]}" -eq 1 ]
        [[ $output == *"${wrong%%=*}"* ]]
    done
    refused table 'there are no reports'
}

@test "data sets at hand are used as they are, or unpacked" {
    documents
    cd "$BATS_TEST_TMPDIR/data"
    cp gsm8k_train.jsonl ../expected
    xz wiki.test.raw gsm8k_train.jsonl
    tar cJf mmlu.tar.xz mmlu
    rm -r mmlu
    cd "$TOP"
    graph fetch-data DATA="$BATS_TEST_TMPDIR/data" >"$BATS_TEST_TMPDIR/said"
    [ "$(grep -c UNPACK "$BATS_TEST_TMPDIR/said")" -eq 3 ]
    [ "$(grep -c "^  $BATS_TEST_TMPDIR/data/" "$BATS_TEST_TMPDIR/said")" -eq 4 ]
    diff "$BATS_TEST_TMPDIR/expected" "$R/data/local/gsm8k_train.jsonl"
    [ -e "$R/data/local/mmlu/test/abstract_algebra_test.csv" ]
    run graph fetch-data DATA="$BATS_TEST_TMPDIR/data"
    [[ $output != *UNPACK* ]]
    cp -r "$BATS_TEST_TMPDIR/data" "$BATS_TEST_TMPDIR/other"
    [ "$(graph fetch-data DATA="$BATS_TEST_TMPDIR/other" | grep -c UNPACK)" -eq 3 ]
}

@test "data sets are downloaded, unpacked and checked against the sum that is known, or against the first one" {
    cd "$BATS_TEST_TMPDIR"
    mkdir -p data/{dev,val,test,auxiliary_train}
    touch data/{dev,val,test,auxiliary_train}/x.csv
    tar cf data.tar data
    head -c 200000 /dev/urandom >text
    fetch() { "$TOP/pipelines/fetch-data" "$@"; }
    fetch "file://$PWD/data.tar" - 'data/dev data/val data/test' got/mmlu
    [ "$(cd got/mmlu && echo *)" = 'dev test val' ]
    mkdir -p got2
    head -c 100000 text >got2/.text.text.part
    fetch "file://$PWD/text" "$(sha256sum <text | cut -d' ' -f1)" - got2/text
    diff text got2/text
    [ "$(ls -A got2)" = text ]

    run fetch "file://$PWD/text" 0123 - got3/text
    [ "$status" -eq 65 ]
    [[ $output == *"expected 0123"* ]]
    [ -z "$(ls -A got3)" ]

    fetch "file://$PWD/text" - - got/text
    rm got/text
    fetch "file://$PWD/text" - - got/text
    rm got/text
    echo more >>text
    run fetch "file://$PWD/text" - - got/text
    [ "$status" -eq 65 ]
    [ ! -e got/text ]
}

@test "without a network a data set is asked for by name" {
    run pipelines/fetch-data http://127.0.0.1:9/data.zip - wiki.test.raw "$BATS_TEST_TMPDIR/data/wiki.test.raw"
    [ "$status" -eq 69 ]
    [[ $output == *"cannot download 'http://127.0.0.1:9/data.zip'; DATA=DIRECTORY takes 'wiki.test.raw' from there"* ]]
    [ -z "$(ls -A "$BATS_TEST_TMPDIR/data")" ]
}

@test "a sample of what a model writes" {
    run graph stories-dense.sample stories-chi16.sample PROMPT="Lily's dog"
    [ "$status" -eq 0 ]
    [[ $output == *"dense: \"Lily's dog ...\""*'chi16 (cut the plain way: no look at data, no healing): '* ]]
    [ "$(grep -c '^    .' <<<"$output")" -ge 2 ]
}

@test "a copy at hand is not downloaded" {
    run graph SMOLLM2=pipelines/models/stories260K GRANITE=pipelines/models/stories260K fetch-smollm2 fetch-granite
    [ "$status" -eq 0 ]
    [[ $output != *fetch-package* && $output != *fetch-checkpoint* ]]
    run graph SMOLLM2=/nowhere.gguf fetch-smollm2
    [ "$status" -ne 0 ]
    [ ! -e "$R" ]
}

@test "layers are counted in directories and streams" {
    [ "$(pipelines/layers pipelines/models/stories260K)" -eq 5 ]
    extract-layer pipelines/models/stories260K -o "$BATS_TEST_TMPDIR/stream.tns"
    [ "$(pipelines/layers "$BATS_TEST_TMPDIR/stream.tns")" -eq 5 ]
}

@test "slots: no more at once than there are, and the exit status comes through" {
    export SLOTS=2
    cd "$BATS_TEST_TMPDIR"
    mkdir running
    for i in 1 2 3 4 5 6; do
        "$TOP/pipelines/slot" "touch running/$i; ls running | wc -l >>most; sleep 0.2; rm running/$i" &
    done
    wait
    [ "$(wc -l <most)" -eq 6 ]
    [ "$(sort -n most | tail -1)" -le 2 ]
    run "$TOP/pipelines/slot" 'exit 65 | cat'
    [ "$status" -eq 65 ]
}

@test "slots: their number is checked, their folder is the user's own" {
    for slots in 0 x -1 1.5 08 ''; do
        SLOTS=$slots run pipelines/slot 'echo ran'
        if [ -n "$slots" ]; then
            [ "$status" -eq 64 ]
            [[ $output == "slot: SLOTS is '$slots', expected a whole number from 1" ]]
        else
            [ "$output" = ran ]
        fi
    done
    export TMPDIR=$BATS_TEST_TMPDIR/tmp
    mkdir "$TMPDIR"
    (umask 0 && pipelines/slot true)
    [ "$(stat -c %a "$TMPDIR/lapidary-slots.$UID")" = 700 ]
    rm -r "$TMPDIR/lapidary-slots.$UID"
    ln -s "$BATS_TEST_TMPDIR" "$TMPDIR/lapidary-slots.$UID"
    run pipelines/slot 'echo ran'
    [ "$status" -eq 73 ]
    [ -z "$(find "$BATS_TEST_TMPDIR" -maxdepth 1 -name queue)" ]
}

# A checkpoint in two shards, served from a folder.
served() {
    cd "$BATS_TEST_TMPDIR" || exit
    mkdir served
    for file in config.json generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json; do
        echo '{}' >"served/$file"
    done
    head -c 300000 /dev/urandom >served/model-00001-of-00002.safetensors
    head -c 200000 /dev/urandom >served/model-00002-of-00002.safetensors
    cat >served/model.safetensors.index.json <<'JSON'
{"metadata": {"total_size": 499000},
 "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}
JSON
}

@test "a checkpoint's download goes on where it stopped, and ends with the index" {
    served
    mkdir got
    head -c 100000 served/model-00001-of-00002.safetensors >got/model-00001-of-00002.safetensors.part
    "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got 2>"$BATS_TEST_TMPDIR/said"
    diff -r served got
    grep -q 'to download' "$BATS_TEST_TMPDIR/said"
}

@test "a checkpoint's partial file that is too large is thrown away; files that not every model has may be missing" {
    served
    mkdir got
    head -c 400000 /dev/zero >got/model-00001-of-00002.safetensors.part
    rm served/special_tokens_map.json served/generation_config.json
    "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got
    diff -r served got
    rm -r got served/tokenizer.json
    run "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got
    [ "$status" -ne 0 ]
}

# Serves the folder without telling lengths, and answers HEAD for the path $1 with 503. Sets server and url.
serve_without_lengths() {
    coproc python3 -u - "${1-}" 2>/dev/null 3>&- <<'PYTHON'
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def send_header(self, name, value):
        if name.lower() != "content-length":
            super().send_header(name, value)
    def do_HEAD(self):
        self.send_error(503) if self.path == sys.argv[1] else super().do_HEAD()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory="served"))
print(server.server_port)
server.serve_forever()
PYTHON
    server=$!
    read -r -t 20 -u "${COPROC[0]}" port
    url=http://127.0.0.1:$port
}

@test "a server that tells no sizes will do; one that fails is no server without the file" {
    served
    rm served/special_tokens_map.json
    serve_without_lengths
    mkdir got
    head -c 100000 /dev/zero >got/model-00001-of-00002.safetensors.part
    "$TOP/pipelines/fetch-checkpoint" "$url" got
    diff -r served got
    kill "$server"
    wait "$server" || true
    rm -r got
    serve_without_lengths /tokenizer_config.json
    run "$TOP/pipelines/fetch-checkpoint" "$url" got
    [ "$status" -ne 0 ]
    [ ! -e got/model.safetensors.index.json ]
}

@test "a checkpoint whose shards are too small is refused, and has no index" {
    served
    sed -i 's/499000/599000/' served/model.safetensors.index.json
    run "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got
    [ "$status" -eq 65 ]
    [ ! -e got/model.safetensors.index.json ]
}
