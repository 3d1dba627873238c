# The graphs that look: moments, curves, budgets, stages, and sentences side by side.

load graphs

# graph, looking at a little text, and choosing from few settings.
aware() {
    graph CALIBRATION=pipelines/data/shakespeare.txt SEQUENCES=4 CALIBRATION_CONTEXT=128 CUT_CURVES='--keep .4,.7' \
        PACK_CURVES='--bits 2,3,4 --group 32 --scale-bits 6' "$@"
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
    # By itself it looks sequentially where it cuts, or turns groups.
    for sentence in keep60-aware chi8-q8-aware p50 p50-q8 q3-rotate-aware; do
        [ "$(aware -n "stories-$sentence" | grep -c 'aware-block sequential ')" -eq 5 ]
    done
    for sentence in q3-aware q3-rotate-aware-dense t2-aware 2.5bpw keep60-aware-dense chi8-progressive; do
        [ "$(aware -n "stories-$sentence" | grep -c 'aware-block')" -eq 0 ]
    done
    for sentence in smollm2-2.5bpw smollm2-60.5MB granite-2.5bpw smollm2-p50-q8 smollm2-chi100-progressive; do
        aware -n "$sentence" >/dev/null
    done
    [ "$(aware -n granite-2.5bpw | grep -c 'aware-block \(curves\|dense\) [0-9]*/40 ')" -eq 80 ]
    [ ! -e "$R" ]
}

@test "how to look is said last, budgets have a point, and what was said is said once" {
    refused "step 'aware' in 'aware' must stand last, behind chiN, keepN, qN or a plan" stories-aware
    refused "step 'aware' in 'aware-q3' must stand last" stories-aware-q3
    refused "step 'aware' in 'q3-aware-progressive' must stand last" stories-q3-aware-progressive
    refused "step 'progressive' in 'progressive' must stand last" stories-progressive
    refused "step 'dense' in 'dense-aware' stands alone" stories-dense-aware
    refused "step 'svd' in 'chi8-progressive-svd' must stand last" stories-chi8-progressive-svd
    refused "unknown step 'sequential'" stories-q3-sequential
    for step in 3bpw 3.bpw .5bpw 2.5.1bpw x2.5bpw 60MB; do
        refused "unknown step '$step'" "stories-$step"
    done
    refused "step '0.5bpw': numbers begin at 1" stories-0.5bpw
    refused "N is one of 1 2" stories-p101
    refused "step 'p50' can't stand behind '2.5bpw'" stories-2.5bpw-p50
    refused "step 's7': N is one of 6 8" stories-q3-s7
    refused "step 'rotate' must stand behind qN, not behind 'chi8'" stories-chi8-rotate
    refused "step 'r8' must stand behind qN" stories-r8
    refused "step 'crossed': 'chi8' has that option already" stories-chi8-balanced-crossed
    for wrong in AWARE=maybe CALIBRATION=nowhere CALIBRATION=a:b PEERS=a:b; do
        run graph "$wrong" -n stories-q3-aware
        [ "$status" -ne 0 ]
        [ "${#lines[@]}" -eq 1 ]
        [[ $output == *"${wrong%%=*}"* ]]
    done
}

@test "a look at the model as it came: made once, redone where its settings change, deleted without harm" {
    aware -j2 stories-keep60-q8-aware-dense stories-q3-rotate-r4-s8-aware-dense >"$SAID"
    [ "$(grep -c LOOK "$SAID")" -eq 1 ]
    [ "$(measured keep60-q8-aware-dense 'matrices["cut"], matrices["packed"], matrices["residual"], matrices["turned"]')" = "(35, 35, 0, 0)" ]
    [ "$(measured q3-rotate-r4-s8-aware-dense 'matrices["cut"], matrices["packed"], matrices["residual"], matrices["turned"]')" = \
        "(0, 35, 35, 35)" ]
    grep -q '^35 have a term for what the first one loses, 35 are turned' "$SAID"
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
    # With held-out sequences, or the sequential target would never be looked at.
    tensor-info --json "$R/stories/keep50-q8-aware-cross/layer-03.tns" | grep -q '"held": *1'
    aware SENSITIVITY= stories-3.5bpw >/dev/null
    aware GRANITE=pipelines/models/stories260K granite-3.5bpw >"$SAID"
    [ "$(grep -c 'BLOCK\|CURVES' "$SAID")" -eq 11 ]
    diff <(grep -v '^#' "$R/stories/3.5bpw/budget.plan") <(grep -v '^#' "$R/granite/3.5bpw/budget.plan")
    tensor-diff --tolerance 1e-6 "$R/stories/3.5bpw/model" "$R/granite/3.5bpw/model"
    [ -z "$(find "$R/granite" -name '*states*' -o -name 'moments' -o -name '.block*')" ]
}

@test "budgets: of bits per linear weight, of bytes in all, of parameters; the curves are made once" {
    aware -j2 stories-3.5bpw stories-150.0KB stories-p60 >"$SAID"
    [ "$(grep -c CURVES "$SAID")" -eq 6 ]
    [ "$(measured 3.5bpw '3.2 < bpw_linear <= 3.5 and matrices["packed"] == 35')" = True ]
    [ "$(measured 150.0KB '140000 < whole["bytes"] - headers["bytes"] <= 150000')" = True ]
    [ "$(measured p60 '0.55 < linear["stored_parameters"] / linear["parameters"] <= 0.6 and matrices["packed"] == 0')" = True ]
    [ "$(measured 3.5bpw 'groups[0]["types"]')" = "['q8-64-min']" ]
    [[ $(pipelines/budget "$R/stories/3.5bpw/sizes.json") =~ ^1[0-9][0-9]\.[0-9]KB$ ]]
    [ "$(grep -c '"by": *"matrix".*"bits=2 ' "$R/stories/dense/sensitivity-packed")" -eq 35 ]
    [ "$(grep -c '"by": *"matrix".*"keep=0.3"' "$R/stories/dense/sensitivity-cut")" -eq 35 ]
    run aware stories-3.5bpw
    [[ $output != *CURVES* && $output != *ALLOT* && $output != *PIPE* ]]
    # A piece that a killed run left is no part of the next one.
    cp "$R/stories/dense/layer-03.jsonl" "$BATS_TEST_TMPDIR/whole"
    rm "$R/stories/dense/layer-03.jsonl"
    echo left >"$R/stories/dense/layer-03.jsonl.left.part"
    aware stories-3.5bpw >"$SAID"
    cmp "$R/stories/dense/layer-03.jsonl" "$BATS_TEST_TMPDIR/whole"
}

@test "budgets: errors weighed by how much the model minds them, or alike; a killed look goes on" {
    aware stories-3.0bpw >/dev/null
    head -20 "$R/stories/dense/sensitivity-packed" >"$R/stories/dense/sensitivity-packed.part"
    rm "$R/stories/dense/sensitivity-packed"
    aware stories-3.0bpw >"$SAID"
    [ "$(grep -c 'LOOK' "$SAID")" -eq 1 ]
    [ "$(wc -l <"$R/stories/dense/sensitivity-packed")" -eq 35 ]
    [ ! -e "$R/stories/dense/sensitivity-packed.part" ]
    # Not where it looked at other moments, as its lines say.
    mv "$R/stories/dense/sensitivity-packed" "$R/stories/dense/sensitivity-packed.part"
    aware SEQUENCES=3 stories-3.0bpw >"$SAID"
    [ "$(wc -l <"$R/stories/dense/sensitivity-packed")" -eq 35 ]
    grep -q '"sequences":3' "$R/stories/dense/sensitivity-packed"
    aware stories-3.0bpw >"$SAID"
    grep -v '^#' "$R/stories/3.0bpw/budget.plan" >"$BATS_TEST_TMPDIR/weighed"
    aware SENSITIVITY= stories-3.0bpw >"$SAID"
    [ "$(grep -c 'LOOK' "$SAID")" -eq 0 ]
    run diff "$BATS_TEST_TMPDIR/weighed" <(grep -v '^#' "$R/stories/3.0bpw/budget.plan")
    [ "$status" -eq 1 ]
    run aware SENSITIVITY=layer stories-3.0bpw
    [ "$status" -ne 0 ]
    [[ $output == *"SENSITIVITY is 'layer'"* ]]
}

@test "progressive: each stage looks at the result of the one before" {
    aware -j2 stories-chi16-progressive >"$SAID"
    [ "$(grep -c LOOK "$SAID")" -eq 3 ]
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
        for kind in perplexity kl parameters parameters-kl; do
            grep -q q3-aware "$R/stories/frontier-$kind.svg"
        done
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
