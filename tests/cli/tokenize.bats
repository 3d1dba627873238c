# tokenize: text to ids and back, from every kind of model, and what it refuses.

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    ln -s "$TOP/pipelines/models/stories260K" model
    text='Once upon a time, there was a little girl named Lily.'
    ids='1 403 407 261 378 432 383 286 261 376 298 315 421 395 317 426'
}

@test "ids of a text, with and without BOS, from a file and a pipe" {
    printf %s "$text" >text
    [ "$(tokenize model text)" = "$ids" ]
    [ "$(tokenize model <text)" = "$ids" ]
    [ "$(tokenize --plain model - <text)" = "${ids#1 }" ]
    [ "$(tokenize --count model text)" = 16 ]
    [ "$(tokenize --json model text)" = "[${ids// /,}]" ]
    [ "$(tokenize --tokens model text | sed -n 2p)" = "$(printf '403\t▁Once')" ]
}

@test "every kind of model gives the same" {
    printf %s "$text" >text
    extract-layer -q model -o stream
    extract-layer -q model | assemble -q -o directory
    for each in model/tokenizer.json stream directory; do
        [ "$(tokenize "$each" text)" = "$ids" ]
    done
    [ "$(extract-layer -q model | tokenize - text)" = "$ids" ]
}

@test "ids become the text again" {
    printf 'a b  c\n\n  d\té\xe2\x96\x81\n' >text
    tokenize --plain model text | tokenize --decode model >back
    sed 's/\xe2\x96\x81/ /' text | cmp - back
    [ "$(echo "$ids" | tokenize --decode model)" = "<s> $text" ]
    [ "$(echo "[${ids// /, }]" | tokenize --decode --skip-special model)" = "$text" ]
}

@test "lines, and lines of JSON strings" {
    [ "$(printf '%s\n\n%s' "$text" "$text" | tokenize --lines model)" = "$(printf '%s\n1\n%s' "$ids" "$ids")" ]
    [ "$(printf '"%s"\n"a\\nb"\n' "$text" | tokenize --jsonl --count model)" = "$(printf '16\n4')" ]
    [ "$(printf '%s\n1 403\n' "$ids" | tokenize --decode --lines --json --skip-special model)" = \
        "$(printf '"%s"\n"Once"' "$text")" ]
}

@test "bytes that are no text are read as U+FFFD" {
    [ "$(printf 'a\xffb' | tokenize model)" = "$(printf 'a\xef\xbf\xbdb' | tokenize model)" ]
}

expect() { # CODE PART COMMAND
    local rc=0
    bash -c "$3" >out 2>errors || rc=$?
    [ "$rc" -eq "$1" ]
    [ "$(wc -l <errors)" -eq 1 ]
    grep -q -- "$2" errors
}

@test "refusals: one line, with the reason" {
    expect 64 'expected a model' 'tokenize </dev/null'
    expect 64 'both come from standard input' 'tokenize - </dev/null'
    expect 64 'exclude each other' 'tokenize --count --json model </dev/null'
    expect 64 'excludes' 'tokenize --decode --plain model </dev/null'
    expect 64 'goes with --decode' 'tokenize --skip-special model </dev/null'
    expect 66 'nowhere' 'tokenize nowhere </dev/null'
    expect 66 'nowhere' 'tokenize model nowhere'
    expect 65 'expected an id from 0 to 511' 'echo 512 | tokenize --decode model'
    expect 65 'expected an id from 0 to 511' 'echo 1 x | tokenize --decode model'
    expect 65 "'standard input, line 1': expected a JSON string" 'echo 7 | tokenize --jsonl model'
    expect 65 'cannot parse' 'echo "\"" | tokenize --jsonl model'
    sed 's/"BPE"/"Unigram"/' model/tokenizer.json >other.json
    expect 65 "model 'Unigram' is not supported" 'tokenize other.json </dev/null'
    mkdir without && cp model/config.json model/model.safetensors without
    expect 65 "tokenizer.json" 'tokenize without </dev/null'
    expect 74 'cannot write' 'echo a | tokenize model >/dev/full'
}
