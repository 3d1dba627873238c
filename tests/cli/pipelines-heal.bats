# The graphs around healing: the step heal, data sets to heal on, what a report says of it, make demo-heal.

load graphs

# On the tiny model: few short windows, and data that is at hand.
graph() {
    make --no-print-directory V= R="$R" HEAL_DATA=pipelines/data/shakespeare.txt HEAL_OPTIONS='--context 32 --batch 2' \
        CALIBRATION=pipelines/data/shakespeare.txt SEQUENCES=4 CALIBRATION_CONTEXT=64 "$@"
}

heals() {
    graph HEAL_STEPS=3 "$@"
}

# Conversations in the form of Alpaca, one array.
conversations() {
    local i
    echo '['
    for i in 1 2 3 4 5 6; do
        echo '{"instruction": "Who has ball '$i'?", "input": "", "output": "Lily has it. She likes ball '$i'."},'
    done
    echo '{"instruction": "Who is sad?", "input": "Lily or Tom", "output": "Tom is sad."}]'
}

@test "heal stands last, behind what is cut or packed" {
    for sentence in heal dense-heal chi8-heal-svd chi8-heal-q4 chi8-heal-heal q4-heal-aware; do
        refused "step 'heal' in '$sentence' must stand last, behind what is cut or packed" "stories-$sentence"
    done
    refused "step 'chi8' can't stand behind 'q4'" stories-q4-chi8-heal
    refused "step 'svd' in 'q4-svd' must stand last" stories-q4-svd-heal
    refused "empty step in '-chi8--heal'" stories-chi8--heal
}

@test "what heal is told is checked first" {
    refused "HEAL_DATA: 'nowhere' is no file, and none of the data sets wikitext_train alpaca" -n stories-q4-heal HEAL_DATA=nowhere
    refused "HEAL_DATA: 'hellaswag' is no file" -n stories-q4-heal HEAL_DATA='alpaca hellaswag'
    refused "HEAL_DATA is empty" -n stories-q4-heal HEAL_DATA=
    for variable in HEAL_STEPS HEAL_TOKENS HEAL_LIMIT PROGRESSIVE_HEAL OTHER_TOKENS; do
        refused "$variable is '1.5'" -n stories-q4-heal "$variable=1.5"
    done
    refused 'one of them says how long' -n stories-q4-heal HEAL_STEPS=3 HEAL_TOKENS=100
    refused "OTHER_TEXT is 'alpaca', which HEAL_DATA has, too" -n stories-q4-heal HEAL_DATA=alpaca OTHER_TEXT=alpaca
    refused "TEXT is 'pipelines/data/shakespeare.txt', which HEAL_DATA has, too" -n stories-q4-heal \
        HEAL_DATA=pipelines/data/shakespeare.txt TEXT=pipelines/data/shakespeare.txt
    refused "OTHER_TEXT: 'nowhere' is no file" -n stories-q4-heal OTHER_TEXT=nowhere
    refused "HEAL_OPTIONS can't have '" -n stories-q4-heal HEAL_OPTIONS="-m '*'"
}

@test "the plan of a healed sentence: what it starts from, one heal with the whole machine; nothing is written" {
    run graph -n smollm2-2.5bpw-heal HEAL_DATA='alpaca ultrachat pipelines/data/shakespeare.txt' HEAL_TOKENS=1000 HEAL_LIMIT=50 \
        MPIRUN='mpirun -n 2'
    [ "$status" -eq 0 ]
    [ "$(grep -c "^pipelines/slot --all 'mpirun -n 2 heal $R/smollm2/2.5bpw/model $R/data/alpaca_data.json $R/data/ultrachat_200k.jsonl \
pipelines/data/shakespeare.txt --teacher $R/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --tokens 1000 --limit 50 .*--context 32 --batch 2 \
--work $R/smollm2/2.5bpw-heal/work -o $R/smollm2/2.5bpw-heal/healed.tns'" <<<"$output")" -eq 1 ]
    [ "$(grep -c "pipelines/fetch-data .*alpaca_data.json\|pipelines/fetch-data .*ultrachat_200k.jsonl" <<<"$output")" -eq 2 ]
    for sentence in smollm2-chi100-heal smollm2-t2-r8-heal smollm2-keep60-aware-heal granite-chi100-progressive-heal; do
        graph -n "$sentence" >/dev/null
    done
    for options in '--loss ce' --loss=ce '--teacher-logits logits'; do
        [ "$(graph -n stories-chi16-heal HEAL_OPTIONS="$options" | grep "'heal " | grep -c -- '--teacher ')" -eq 0 ]
    done
    [ ! -e "$R" ]
}

@test "a healed sentence: made once, redone where what it depends on changes, and nothing else" {
    local healed=$R/stories/chi16-heal
    heals stories-chi16-heal >"$SAID" 2>"$SAID.err"
    [ "$(grep -c HEAL "$SAID")" -eq 1 ]
    [ "$(wc -l <"$healed/work/log")" -eq 3 ]
    tensor-info --json "$healed/model" | grep -q '"heal"'
    [ "$(cat "$healed/sentence")" = "heal $R/stories/chi16/model pipelines/data/shakespeare.txt --teacher \
pipelines/models/stories260K --steps 3 --checkpoint-every 20 --context 32 --batch 2" ]
    tensor-diff --tolerance 1 "$R/stories/chi16/model" "$healed/model" | grep -q 'mlp.down_proj.* error'
    [ "$(graph stories-chi16 | grep '^linear' | cut -c1-90)" = "$(grep '^linear' "$SAID" | cut -c1-90)" ]
    run heals stories-chi16-heal
    [[ $output != *PIPE* && $output != *HEAL* && $output != *JOIN* && $output != *MEASURE* ]]

    run graph stories-chi16-heal HEAL_STEPS=2
    [[ $output == *HEAL* && $output == *JOIN* && $output == *MEASURE* && $output != *PIPE* ]]
    [ "$(wc -l <"$healed/work/log")" -eq 2 ]
    run graph stories-chi16-heal HEAL_TOKENS=128
    [[ $output == *HEAL* && $output != *PIPE* ]]
    touch "$R/stories/chi16/layer-02.tns"
    run graph stories-chi16-heal HEAL_TOKENS=128
    [[ $output == *HEAL* && $output != *PIPE* ]]
    run graph stories-chi16.sample stories-chi16-heal.sample HEAL_TOKENS=128 PROMPT='Tom and'
    [[ $output == *'chi16 (cut the plain way: no look at data, no healing): "Tom and ..."'*'chi16-heal: "Tom and ..."'* ]]
    [[ $output != *HEAL* ]]
}

@test "a killed make goes on at the newest checkpoint, to the same bytes; not from one of other numbers" {
    local healed=$R/stories/q4-heal
    long() { # 120 steps, a checkpoint each
        graph HEAL_STEPS=120 HEAL_OPTIONS='--context 32 --batch 2 --checkpoint-every 1' "$@"
    }
    long stories-q4-heal >/dev/null 2>&1
    cp "$healed/healed.tns" "$BATS_TEST_TMPDIR/whole.tns"
    rm -r "$healed"
    setsid make --no-print-directory V= R="$R" HEAL_DATA=pipelines/data/shakespeare.txt HEAL_STEPS=120 \
        HEAL_OPTIONS='--context 32 --batch 2 --checkpoint-every 1' stories-q4-heal >/dev/null 2>&1 3>&- &
    until compgen -G "$healed/work/checkpoint-*" >/dev/null; do sleep 0.01; done
    kill -KILL -- "-$!"
    wait || true
    [ ! -e "$healed/healed.tns" ]
    long stories-q4-heal >"$SAID" 2>&1
    [[ $(cat "$SAID") == *'goes on behind step'* && $(cat "$SAID") != *PIPE* ]]
    cmp "$healed/healed.tns" "$BATS_TEST_TMPDIR/whole.tns"
    [ "$(wc -l <"$healed/work/log")" -eq 120 ]

    rm "$healed/healed.tns"
    mv "$BATS_TEST_TMPDIR/whole.tns" "$healed/work/checkpoint-00000007"
    touch "$R/stories/q4/layer-01.tns"
    long stories-q4-heal >"$SAID" 2>&1
    [ "$(grep -c 'goes on\|checkpoint' "$SAID")" -eq 0 ]
}

@test "what heal refuses stops the make, with heal's words" {
    run heals stories-q4-heal HEAL_OPTIONS='--context 32 --train cores'
    [ "$status" -ne 0 ]
    [[ $output == *'heal: '*'nothing to train'* ]]
    [ ! -e "$R/stories/q4-heal/healed.tns" ]
    run heals stories-q4-heal HEAL_DATA=tests/cli/data/gsm8k_test.jsonl
    [ "$status" -ne 0 ]
    [[ $output == *'models are measured with this file (GSM8K, test'* ]]
}

@test "progressive with healing between: each stage looks at what the one before left, healed" {
    heals -j2 stories-chi16-progressive-heal PROGRESSIVE_HEAL=2 >"$SAID" 2>"$SAID.err"
    [ "$(grep HEAL "$SAID" | sort)" = "$(printf "  HEAL    $R/stories/chi16-progressive%s\n" -heal 1-heal 2-heal)" ]
    grep -q -- ' --steps 2 ' "$R/stories/chi16-progressive1-heal/sentence"
    grep -q -- ' --steps 3 ' "$R/stories/chi16-progressive-heal/sentence"
    [ "$(cat "$R/stories/chi16-progressive/sentence")" = "extract-layer $R/stories/chi16-progressive2-heal/model \
| mpo-decompose --moments $R/stories/chi16-progressive2-heal/moments --match \\*.self_attn.[kv]_proj.weight --chi 16" ]
    [ "$(tensor-info --json "$R/stories/chi16-progressive-heal/model" | grep -A40 '"program": "heal"' | grep -c '"steps": [23],')" -eq 2 ]
    run heals -j2 stories-chi16-progressive-heal PROGRESSIVE_HEAL=2
    [[ $output != *HEAL* && $output != *PIPE* && $output != *LOOK* ]]
}

@test "conversations by their data set's name; a report of before and after, on a second text, too" {
    local data=$BATS_TEST_TMPDIR/data i
    mkdir "$data"
    conversations >"$data/alpaca_data.json"
    tr -d '[]\n' <"$data/alpaca_data.json" | sed 's/},/}\n/g' | xz >"$data/ultrachat_200k.jsonl.xz"
    head -c 3000 pipelines/data/shakespeare.txt >"$data/wiki.test.raw"
    for i in 1 2 3; do
        echo '{"ind": '$i', "activity_label": "Sailing", "ctx_a": "A boat is seen.", "ctx_b": "it", "label": '$i',' \
            '"endings": ["sinks.", "sails on.", "flies.", "sings."]}' >>"$data/hellaswag_val.jsonl"
    done
    report() {
        heals "$1" DATA="$data" HEAL_DATA=alpaca HEAL_LIMIT=5 TASKS=hellaswag LIMIT=2 CONTEXT=128 \
            HEAL_OPTIONS='--context 32 --batch 2 --template chatml' "${@:2}"
    }
    report stories-chi8-sites3-heal.report -j2 >"$SAID" 2>"$SAID.err"
    grep -q "heal $R/stories/chi8-sites3/model $data/alpaca_data.json .* --limit 5 " "$R/stories/chi8-sites3-heal/sentence"
    tensor-info "$R/stories/chi8-sites3-heal/model" | grep -q '"documents":5'
    [ "$(sed -n '/ other  /,$p' "$SAID" | sed -n '2,5s/  .*//p')" = $'dense\nchi8-sites3: matrix SVD\nchi8-sites3*\nchi8-sites3-heal' ]
    grep -q '^other: perplexity: ultrachat_200k.txt, ' "$SAID"
    [ "$(head -3 "$R/data/text/ultrachat_200k.txt")" = $'Who has ball 1?\n\nLily has it. She likes ball 1.' ]
    [ "$(tail -5 "$R/data/text/ultrachat_200k.txt")" = $'Who is sad?\n\nLily or Tom\n\nTom is sad.' ]
    python3 - "$R/stories" <<'PYTHON'
import json, sys
for steps in ("dense", "chi8-sites3", "chi8-sites3-svd", "chi8-sites3-heal"):
    report = json.load(open(f"{sys.argv[1]}/{steps}/report.json"))
    assert report["other"]["perplexity"] > 1 and report["other"] != report["perplexity"], report
    assert report["hellaswag"]["count"] == 2
PYTHON
    run report stories-chi8-sites3-heal.report
    [[ $output != *EVAL* && $output != *HEAL* && $output != *REPORT* && $output != *TEXT* ]]

    report stories-chi8-sites3-heal.report OTHER_TEXT=none BASELINES= TASKS= >"$SAID" 2>"$SAID.err"
    [ "$(grep -c EVAL "$SAID")" -eq 0 ]
    report stories-chi8-sites3-heal.report OTHER_TEXT="$data/wiki.test.raw" BASELINES=unhealed TASKS= >"$SAID" 2>"$SAID.err"
    [ "$(grep EVAL "$SAID" | sort)" = "$(printf "  EVAL    $R/stories/chi8-sites3%s/other.json\n" -heal '')" ]
    run graph -n stories-chi8.report DATA="$data"
    [[ $output != *other.json* ]]
}

@test "arrays and lines are read no further than needed; what is neither is refused" {
    local script=$TOP/pipelines/plain-text
    cd "$BATS_TEST_TMPDIR"
    python3 - <<'PYTHON'
import json
many = [{"conversations": [{"from": "human", "value": f"q{i} ]}}," + "x" * 3000}, {"from": "gpt", "value": f"a{i}"}]} for i in range(1500)]
json.dump(many, open("array.json", "w"), indent=1)
open("lines.jsonl", "w").write("".join(json.dumps(m) + "\n" for m in many))
open("cut.json", "w").write(json.dumps(many)[:-2000])
PYTHON
    for file in array.json lines.jsonl cut.json; do
        "$script" "$file" out/text
        [ "$(grep -c '^a[0-9]*$' out/text)" -eq 1000 ]
        [ "$(tail -1 out/text)" = a999 ]
    done
    for bad in 'no JSON' '[{"text": "a"}' '{"text": ' '[]'; do
        echo "$bad" >bad
        run "$script" bad out/bad
        [ "$status" -eq 65 ]
        [ ! -e out/bad ]
    done
}

@test "data sets of conversations are fetched, and checked where a sum is known" {
    conversations >"$BATS_TEST_TMPDIR/alpaca_data.json"
    run make --no-print-directory V= R="$R" fetch-heal HEAL_DATA='alpaca openhermes' \
        ALPACA_URL="file://$BATS_TEST_TMPDIR/alpaca_data.json" OPENHERMES_URL="file://$BATS_TEST_TMPDIR/alpaca_data.json"
    [ "$status" -eq 0 ]
    cmp "$BATS_TEST_TMPDIR/alpaca_data.json" "$R/data/openhermes2_5.json"
    [[ $output == *"  $R/data/alpaca_data.json"*"  $R/data/openhermes2_5.json"* ]]
    run make -n --no-print-directory V= R="$BATS_TEST_TMPDIR/none" fetch-heal HEAL_DATA='alpaca ultrachat openhermes'
    [ "$(grep -c "fetch-data 'https://.*' [0-9a-f]\{64\} '-' " <<<"$output")" -eq 2 ]
    [ "$(grep -c "fetch-data 'https://.*openhermes2_5.json' - '-' " <<<"$output")" -eq 1 ]
}

@test "Parquet becomes lines; where nothing can read it, that is said" {
    local path=$BATS_TEST_TMPDIR/path
    base64 -d >"$BATS_TEST_TMPDIR/u.parquet" <<'PARQUET'
UEFSMRUAFR4VIiwVBhUAFQYVBgAADzgBAAAAcAEAAABwAQAAAHAVABXOARVULBUMFQAVBhUGAABnGCEAAABBKgB2AQBkAgAAAAwDCQAAAGhpICJ4IiDDqQMA
AAB5ZXOeFAAVABXUARVWLBUMFQAVBhUGAABqGCEAAABBKgB2AQBoAgAAAAwDBAAAAHVzZXIJAAAAYXNzaXN0YW50phUAFQIZfDUAGA1kdWNrZGJfc2NoZW1h
FQQAFQwlABgGcHJvbXB0JQAANQAYCG1lc3NhZ2VzFQIVBgA1BBgEbGlzdBUCADUCGAdlbGVtZW50FQQAFQwlAhgHY29udGVudCUAABUMJQIYBHJvbGUlAAAW
BhkcGTwmABwVDBkVABkYBnByb21wdBUCFgYWQBZEJgg8GAFwGAFwFgAoAXAYAXAREQAZHBUAFQAVAgAAACYAHBUMGRUAGUgIbWVzc2FnZXMEbGlzdAdlbGVt
ZW50B2NvbnRlbnQVAhYMFvIBFngmTDwYA3llcxgJaGkgIngiIMOpFgAoA3llcxgJaGkgIngiIMOpEREAGRwVABUAFQIAAAAmABwVDBkVABlICG1lc3NhZ2Vz
BGxpc3QHZWxlbWVudARyb2xlFQIWDBb4ARZ6JsQBPBgEdXNlchgJYXNzaXN0YW50FgAoBHVzZXIYCWFzc2lzdGFudBERABkcFQAVABUCAAAAFqoEFgYmCBa2
AgAoKER1Y2tEQiB2ZXJzaW9uIHYyLjAuMSAoYnVpbGQgOGQ3ODExNGU5MCkZPBwAABwAABwAAAC1AQAAUEFSMQ==
PARQUET
    mkdir "$path"
    printf '#!/bin/sh\nexit 1\n' >"$path/python3"
    chmod +x "$path/python3"
    PATH=$path:$PATH run pipelines/parquet-lines "$BATS_TEST_TMPDIR/u.parquet"
    [ "$status" -eq 69 ]
    [[ $output == *'takes the Python package duckdb'* ]]
    python3 -c 'import duckdb' 2>"$SAID" || skip "no duckdb"
    pipelines/fetch-data "file://$BATS_TEST_TMPDIR/u.parquet" "$(sha256sum <"$BATS_TEST_TMPDIR/u.parquet" | cut -d' ' -f1)" - \
        "$BATS_TEST_TMPDIR/got/u.jsonl"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/got/u.jsonl")" -eq 3 ]
    [ "$(sort -u "$BATS_TEST_TMPDIR/got/u.jsonl")" = '{"prompt":"p","messages":[{"content":"hi \"x\" é","role":"user"},'\
'{"content":"yes","role":"assistant"}]}' ]
}

@test "make demo-heal without a network: dense, cut and healed side by side, and what they write" {
    local path=$BATS_TEST_TMPDIR/path
    pipelines/needs check build demo 2>"$SAID" || skip "packages that make demo-heal would install"
    mkdir "$path"
    printf '#!/bin/sh\nexit 6\n' >"$path/curl"
    chmod +x "$path/curl"
    PATH=$path:$PATH run make --no-print-directory V= R="$R" demo-heal SMOLLM2_PACKAGE=./nowhere HEAL_STEPS=3 DEMO_TOKENS=600 \
        HEAL_OPTIONS='--context 32 --batch 2'
    [ "$status" -eq 0 ]
    [[ $output == *'embedded stories260K'*'WikiText-2 cannot be fetched'*'its training set cannot be fetched'* ]]
    [ "$(sed -n '/^stories260K: /,/^perplexity/s/^\(dense\|keep60-aware-heal\|keep60-aware\)\*\{0,1\}  .*/\1/p' <<<"$output")" = \
        $'dense\nkeep60-aware\nkeep60-aware-heal' ]
    [[ $output == *'perplexity: shakespeare-rest.txt, '*' tokens in windows of 512'* && $output != *'other: '* ]]
    [ "$(grep -c '^[a-z0-9-]*\( (.*)\)\{0,1\}: "Once upon a time ..."' <<<"$output")" -eq 3 ]
    grep -q "heal .* $R/data/shakespeare-first.txt " "$R/stories/keep60-aware-heal/sentence"
}
