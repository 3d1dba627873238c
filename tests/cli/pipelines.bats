# The graphs: the grammar of sentences, what is redone and what is not, and the scripts that the graphs call.

setup() {
    R=$BATS_TEST_TMPDIR/runs
    cd "$TOP" || exit
}

graph() {
    make --no-print-directory V= R="$R" "$@"
}

# The streams of a run, by content; histories name no paths, so two folders can be compared.
contents() {
    (cd "$R/$1" && find . -type f ! -name report.json ! -name sentence -exec sha256sum {} + | sort -k2)
}

@test "a plan shows the sentence of each layer and writes nothing" {
    run graph -n stories-chi16-q8
    [ "$status" -eq 0 ]
    [ "$(grep -c 'extract-layer .*| mpo-decompose .*--chi 16 .*| quantize .*--bits 8 .*-o .*/layer-0[0-4].tns' <<<"$output")" -eq 5 ]
    [ ! -e "$R" ]
}

@test "steps become programs from left to right, modifiers their options" {
    run graph -n stories-q4-g32-zmin-keep50-sites3
    [[ $output == *'| quantize '*'--bits 4 --group 32 --zero min | mpo-decompose '*'--keep 50e-2 --sites 3 '* ]]
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
    python3 -m json.tool "$R/stories/chi16-q8/report.json" >/dev/null
    contents stories/chi16-q8 >before

    graph -q "$R/stories/chi16-q8/report.json"
    run graph stories-chi16-q8
    [[ $output != *PIPE* && $output != *JOIN* && $output != *MEASURE* ]]

    rm "$R/stories/chi16-q8/layer-02.tns"
    run graph stories-chi16-q8
    [ "$(grep -c PIPE <<<"$output")" -eq 1 ]
    [[ $output == *layer-02.tns* && $output == *JOIN* && $output == *MEASURE* ]]
    contents stories/chi16-q8 | diff before -
    rm before
}

@test "any number of jobs gives the same bytes" {
    graph stories-chi8
    contents stories/chi8 >"$BATS_TEST_TMPDIR/one"
    rm -r "$R"
    graph -j64 stories-chi8
    contents stories/chi8 | diff "$BATS_TEST_TMPDIR/one" -
}

@test "a model of one's own; another one under the same name is another sentence" {
    cp -r pipelines/models/stories260K "$BATS_TEST_TMPDIR/other"
    graph MODEL=pipelines/models/stories260K my-q4
    run graph MODEL=pipelines/models/stories260K my-q4
    [[ $output != *PIPE* ]]
    run graph MODEL="$BATS_TEST_TMPDIR/other" my-q4
    [ "$(grep -c PIPE <<<"$output")" -eq 6 ]
    run graph MODEL="$BATS_TEST_TMPDIR/nowhere" my-q4
    [ "$status" -ne 0 ]
    [[ $output == *nowhere* ]]
}

@test "the report adds up" {
    graph stories-chi16-q8
    python3 - "$R/stories/chi16-q8" <<'PYTHON'
import json, os, sys
report = json.load(open(sys.argv[1] + "/report.json"))
groups, whole = report["groups"], report["whole"]
assert sum(g["parameters"] for g in groups) == whole["parameters"] == report["source"]["parameters"] == 260032, groups
assert report["source"]["bytes"] == os.path.getsize("pipelines/models/stories260K/model.safetensors")
disk = sum(e.stat().st_size for e in os.scandir(sys.argv[1] + "/model") if e.name.endswith(".safetensors"))
assert whole["bytes"] == disk, (whole, disk)
assert report["bpw_model"] == 8 * disk / 260032
linear = [g for g in groups if g["name"].startswith(("attention", "MLP"))]
assert len(linear) == 7
assert report["bpw_linear"] == 8 * sum(g["bytes"] for g in linear) / sum(g["parameters"] for g in linear)
assert 0 < report["error"] < 1
assert all(0 < g["error"] < 1 for g in linear), linear
PYTHON
    pipelines/table "$R/stories/chi16-q8/report.json" | grep -q '^attention q  *81,920\|^attention q  *20,480'
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
    "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got 2>said
    diff -r served got
    grep -q 'to download' said
}

@test "a checkpoint whose shards are too small is refused, and has no index" {
    served
    sed -i 's/499000/599000/' served/model.safetensors.index.json
    run "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got
    [ "$status" -eq 65 ]
    [ ! -e got/model.safetensors.index.json ]
}
