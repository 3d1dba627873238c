# The graphs: the grammar of sentences, what is redone and what is not, and the scripts that the graphs call.

load graphs

teardown() {
    [ -z "${server-}" ] || kill "$server" || true
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

@test "a step that has nothing left to act on is refused by name" {
    refused "step 'chi8' can't stand behind 'q4'" stories-q4-chi8
    refused "step 'chi8' can't stand behind 'q4'" stories-q4-g32-chi8
    refused "step 'chi16' can't stand behind 'q4'" stories-chi8-q4-chi16
    refused "step 'keep50' can't stand behind 'chi8'" stories-chi8-sites3-keep50
    refused "N is one of 2" stories-chi4-sites17
    refused "N is one of 1" stories-keep200
    graph -n stories-seed-chi4 > /dev/null
    refused "step 'q8' can't stand behind 'q4'" stories-q4-q8
    refused "step 'q8' can't stand behind 'q4'" "$R/stories/q4-q8/sizes.json"
}

@test "an option's step stands behind its program's step, once" {
    refused "step 'g32' must stand behind qN" stories-g32
    refused "step 'sites3' must stand behind chiN or keepN" stories-sites3-chi4
    refused "step 'sites3' must stand behind chiN or keepN, not behind 'q4'" stories-chi4-q4-sites3
    refused "step 'zint' must stand behind qN, not behind 'chi4'" stories-chi4-zint-q4
    refused "step 'g64': 'q4' has that option already" stories-q4-g32-g64
    refused "step 'zint': 'q4' has that option already" stories-q4-zmin-zint
}

@test "empty steps and numbers that are none are refused" {
    for sentence in stories- stories-chi8- stories--chi8 stories-chi8--q4; do
        refused "empty step in '-${sentence#stories-}'" "$sentence"
    done
    refused "step 'chi008': numbers begin at 1" stories-chi008
    refused "step 'g0': numbers begin at 1" stories-chi8-q4-g0
    refused "step 'q7': N is one of 2 3 4 5 6 8" stories-q7
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
    MODEL=pipelines/models/stories260K refused "unknown model 'my'" my-chi8
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
    refused "step 'dense' in 'dense-q4' stands alone" stories-dense-q4
    refused "step 'dense' in 'chi4-dense' stands alone" stories-chi4-dense
    for sentence in svd q4-svd chi4-svd-q4 chi4-svd-svd; do
        refused "step 'svd' in '$sentence' must stand last, behind chiN, keepN or a plan that cuts" "stories-$sentence"
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
    graph stories-seed >"$SAID"
    grep -q '^35 of 35 matrices kept as they were; 0 cut into cores, 0 packed' "$SAID"
    grep -q '^embedding, attention q, .*: stored as f32, as the source has it' "$SAID"
    graph stories-chi8-q8 >"$SAID"
    grep -q '^0 of 35 matrices kept as they were; 35 cut into cores, 35 packed' "$SAID"
    run grep 'stored as f32' "$SAID"
    [ "$status" -ne 0 ]
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
    graph -j2 stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 >"$SAID"
    [ "$(grep -c EVAL "$SAID")" -eq 20 ]
    grep -q '^dense  *260,032 ' "$SAID"
    grep -q '^chi8-sites3: matrix SVD ' "$SAID"
    grep -q '^chi8-sites3\*  *[0-9,]* ' "$SAID"
    grep -q 'plain way' "$SAID"
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
    diff <(grep -A9 ^stories260K "$SAID") <(echo "$output")

    rm "$R/stories/chi8-sites3/boolq.json"
    graph stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 >"$SAID"
    [ "$(grep EVAL "$SAID")" = "  EVAL    $R/stories/chi8-sites3/boolq.json" ]
    [ "$(grep -c REPORT "$SAID")" -eq 1 ]

    graph stories-chi8-sites3.report DATA="$BATS_TEST_TMPDIR/data" LIMIT=2 CONTEXT=256 TASKS= BASELINES= TOKENS=300 \
        KL_TOKENS=300 >"$SAID"                          # one window: no standard error
    [ "$(grep EVAL "$SAID" | sort)" = "$(printf "  EVAL    $R/stories/chi8-sites3/%s.json\n" kl perplexity)" ]
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
    refused 'there are no reports' table
}

@test "data sets at hand are used as they are, or unpacked" {
    documents
    cd "$BATS_TEST_TMPDIR/data"
    cp gsm8k_train.jsonl ../expected
    xz wiki.test.raw gsm8k_train.jsonl
    tar cJf mmlu.tar.xz mmlu
    rm -r mmlu
    cd "$TOP"
    graph fetch-data DATA="$BATS_TEST_TMPDIR/data" >"$SAID"
    [ "$(grep -c UNPACK "$SAID")" -eq 3 ]
    [ "$(grep -c "^  $BATS_TEST_TMPDIR/data/" "$SAID")" -eq 4 ]
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
    "$TOP/pipelines/fetch-checkpoint" "file://$PWD/served" got 2>"$SAID"
    diff -r served got
    grep -q 'to download' "$SAID"
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
