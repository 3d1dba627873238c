#!/usr/bin/env bats
# evaluate: perplexity and KL. Expected numbers are transformers' (5.24, float32) for the same text.

load shared

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    ln -s "$BATS_TEST_DIRNAME/../../pipelines/models/stories260K" model
    cat > story.txt <<'TEXT'
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big dog. The dog was very sad because it had lost its ball. Lily said, "Do not be sad. I will help you find your ball." They looked under the tree and found it. The dog was happy.
TEXT
}

# Fails unless a and b differ by less than bound relative to b: near A B BOUND
near() {
    "$PYTHON" -c 'import sys; a, b, e = map(float, sys.argv[1:]); print(a, b); sys.exit(abs(a - b) > e * abs(b))' "$@"
}

@test "perplexity is transformers': one window, windows, windows that overlap" {
    evaluate perplexity model story.txt >one 2>said
    near "$(member one perplexity)" 2.154033859 1e-5
    near "$(member one nll)" 0.767342298 1e-5
    [ "$(member one tokens)" = 115 ]
    [ "$(member one windows)" = 1 ]
    [ "$(member one standard_error)" = null ]
    grep -q '^evaluate: perplexity 2.1540 on 115 tokens' said
    evaluate -q perplexity model story.txt --context 32 >many 2>said
    [ ! -s said ]
    near "$(member many perplexity)" 2.157599369 1e-5
    [ "$(member many tokens) $(member many windows) $(member many left_out)" = '93 3 20' ]
    near "$(member many perplexity_standard_error)" 0.6400012 1e-4
    evaluate -q perplexity model story.txt --context 32 --stride 16 >strided
    near "$(member strided perplexity)" 2.384312467 1e-5
    [ "$(member strided tokens) $(member strided windows) $(member strided left_out)" = '115 7 0' ]
    evaluate -q perplexity model story.txt --context 32 --limit-tokens 96 >limited
    [ "$(member limited nll)" = "$(member many nll)" ]
    [ "$(member limited left_out)" = 0 ]
}

@test "the report says what was measured, with what, and how" {
    evaluate -q perplexity model story.txt --threads 1 >report
    [ "$(member report task)" = '"perplexity"' ]
    [ "$(member report data name)" = '"story.txt"' ]
    [ "$(member report data bytes)" = "$(stat -c %s story.txt)" ]
    [ "$(member report model parameters)" = 260032 ]
    [ "$(member report model format)" = '"safetensors"' ]
    [ "$(member report model bpw_linear)" = 32.0 ]
    [ "$(member report context) $(member report stride) $(member report threads)" = '512 512 1' ]
    [ "$(member report device) $(member report activations)" = '"cpu" "f32"' ]
    [ "$(member report history 0 program)" = '"extract-layer"' ]
    [ "$(member report peak_memory)" -gt 1000000 ]
    extract-layer model | quantize -q --bits 4 | assemble -q -o packed
    evaluate -q perplexity packed story.txt >report
    [ "$(member report history 1 program)" = '"quantize"' ]
    [ "$(member report model format)" = '"lapidary"' ]
    near "$(member report model bpw_linear)" 4.5 0.1
    [ "$(member report model bytes)" = "$(cat packed/*.safetensors | wc -c)" ]
}

@test "from disk, from a pipe, from a file of hidden states, on one thread or more: the same number" {
    evaluate -q perplexity model story.txt --context 32 >disk
    extract-layer model | evaluate -q perplexity - story.txt --context 32 >pipe
    evaluate -q perplexity model - --context 32 <story.txt >text
    evaluate -q perplexity model story.txt --context 32 --memory 0 >file
    evaluate -q perplexity model story.txt --context 32 --threads 3 >threads
    extract-layer model -o model.tns
    evaluate -q perplexity model.tns story.txt --context 32 >stream
    for report in pipe text file threads stream; do
        echo "$report"
        [ "$(member "$report" nll)" = "$(member disk nll)" ]
    done
    [ "$(member text data hash)" = "$(member disk data hash)" ]
    [ "$(member pipe model format)" = '"stream"' ]
    [ -z "$(find . -name 'lapidary.*')" ]
    evaluate -q perplexity model story.txt --context 32 --device reference >plain
    near "$(member plain nll)" "$(member disk nll)" 1e-5
}

@test "rows joined as the papers do are another text" {
    printf ' \n = A = \n \n Once upon a time there was a cat . \n' >raw
    printf '\n\n = A = \n\n\n\n\n Once upon a time there was a cat . \n' >joined
    evaluate -q perplexity model raw --hf-rows >a
    evaluate -q perplexity model joined >b
    [ "$(member a nll)" = "$(member b nll)" ]
    [ "$(member a hf_rows) $(member b hf_rows)" = 'true false' ]
}

@test "rolling: pages, words, bytes as lm-eval has them" {
    printf ' \n = A = \n \n Once upon a time , there was a cat . \n \n = B = \n \n It was sad . \n' >raw
    evaluate -q perplexity model raw --rolling >a
    [ "$(member a task) $(member a documents) $(member a words)" = '"wikitext" 2 24' ]
    [ "$(member a bytes)" = 75 ]
    near "$(member a word_perplexity)" "$("$PYTHON" -c "print(2 ** ($(member a bits_per_byte) * 75 / 24))")" 1e-9
    "$PYTHON" -c 'import json
for page in (" = A = \n \n Once upon a time , there was a cat . \n ", " = B = \n \n It was sad . \n"):
    print(json.dumps({"page": page}))' >pages.jsonl
    evaluate -q perplexity model pages.jsonl --rolling >b
    [ "$(member a nll)" = "$(member b nll)" ]
    evaluate -q perplexity model raw --rolling --limit 1 >one
    [ "$(member one documents)" = 1 ]
}

@test "KL of a model with itself is 0, of a packed one more" {
    evaluate -q kl model model story.txt --context 32 >same
    [ "$(member same kl) $(member same kl_max) $(member same agreement)" = '0.0 0.0 1.0' ]
    [ "$(member same perplexity_ratio) $(member same perplexity_ratio_standard_error)" = '1.0 0.0' ]
    near "$(member same perplexity)" 2.157599369 1e-5
    extract-layer model | quantize -q --bits 3 -o packed.tns
    evaluate kl packed.tns model story.txt --context 32 >other 2>said
    grep -q '^evaluate: KL 0\.' said
    "$PYTHON" - <<'CHECK'
import json, math
r = json.load(open("other"))
assert 0.01 < r["kl"] < r["kl_p99"] <= r["kl_max"], r
assert 0.3 < r["agreement"] < 1
assert math.isclose(r["perplexity_ratio"], r["perplexity"] / r["reference_perplexity"], rel_tol=1e-12)
assert r["reference"]["name"] == "model" and r["model"]["name"] == "packed.tns"
assert len(r["history"]) == 2 and len(r["reference_history"]) == 1
CHECK
    evaluate -q kl - model story.txt --context 32 <packed.tns >piped
    [ "$(member piped kl)" = "$(member other kl)" ]
    evaluate -q kl packed.tns - story.txt --context 32 < <(extract-layer model) >piped
    [ "$(member piped kl)" = "$(member other kl)" ]
}

@test "what can't be measured is refused, with the reason" {
    : >empty
    refuses 66 "cannot open 'absent'" evaluate perplexity model absent
    refuses 66 "cannot open 'model'" evaluate perplexity model model
    refuses 66 "cannot open 'absent'" evaluate perplexity absent story.txt
    refuses 65 'the text is empty' evaluate perplexity model empty
    refuses 65 'the text is empty' evaluate perplexity model - </dev/null
    refuses 65 'not a tensor stream' evaluate perplexity story.txt story.txt
    refuses 64 'read once' evaluate perplexity - -
    refuses 64 'read once' evaluate kl - - story.txt
    refuses 64 'read once' evaluate kl model - -
    refuses 64 'read once' evaluate kl - model -
    refuses 64 "the model takes 512 at most" evaluate perplexity model story.txt --context 513
    refuses 64 "the model takes 512 at most" evaluate kl model model story.txt --context 513
    refuses 64 'longer than the context' evaluate perplexity model story.txt --context 32 --stride 33
    refuses 64 '--context' evaluate perplexity model story.txt --context 1
    refuses 69 'there are cpu, reference' evaluate perplexity model story.txt --device quantum
    refuses 65 'no string "page"' evaluate perplexity --rolling model - <<<'{"text": "a"}'
    extract-layer model --layer 0 -o layer.tns
    refuses 65 'no tokenizer.json' evaluate -q perplexity layer.tns story.txt
}

@test "a text of one token has nothing to predict" {
    cp -rL model plain
    chmod -R u+w plain
    "$PYTHON" - <<'CHECK'
import json
path = "plain/tokenizer.json"
t = json.load(open(path))
t["post_processor"] = None
json.dump(t, open(path, "w"))
CHECK
    evaluate -q perplexity plain story.txt >out
    printf a >short
    refuses 65 'nothing to predict' evaluate perplexity plain short
}

@test "a reference of another vocabulary, or with another tokenizer, is refused" {
    "$PYTHON" "$BATS_TEST_DIRNAME/../tools/random_model.py" small
    cp model/tokenizer.json small
    refuses 65 'vocabulary' evaluate kl model small story.txt
    cp -rL model other
    chmod -R u+w other
    "$PYTHON" - <<'CHECK'
import json
path = "other/tokenizer.json"
t = json.load(open(path))
t["model"]["merges"] = t["model"]["merges"][:-40]
json.dump(t, open(path, "w"))
CHECK
    refuses 65 'the tokenizers differ' evaluate -q kl model other story.txt
}

@test "logits that are not finite are an error that names the token" {
    cp -rL model bad
    chmod -R u+w bad
    "$PYTHON" - <<'CHECK'
import json, struct
import numpy as np
path = "bad/model.safetensors"
data = bytearray(open(path, "rb").read())
size, = struct.unpack("<Q", data[:8])
first, _ = json.loads(data[8:8 + size])["model.norm.weight"]["data_offsets"]
data[8 + size + first:8 + size + first + 4] = np.float32("nan").tobytes()
open(path, "wb").write(data)
CHECK
    refuses 65 'the logits for token 1 of the text are not finite' evaluate -q perplexity bad story.txt
    refuses 65 'the logits for token 0 of document 0 are not finite' evaluate -q perplexity --rolling bad story.txt
    refuses 65 'not finite' evaluate -q kl bad model story.txt
}

@test "options that don't belong to what is measured are refused, wherever they stand" {
    refuses 64 "--shots doesn't belong to perplexity" evaluate perplexity model story.txt --shots 3
    refuses 64 "--batch doesn't belong to kl" evaluate --batch 2 kl model model story.txt
    refuses 64 "--limit doesn't belong to perplexity" evaluate perplexity --limit 3 model story.txt
    refuses 64 "--stride doesn't belong to perplexity --rolling" evaluate perplexity --rolling --stride 3 model story.txt
    refuses 64 "--rolling doesn't belong to kl" evaluate kl --rolling model model story.txt
    refuses 64 "--context doesn't belong to boolq" evaluate boolq model story.txt --context 64
    refuses 64 "--samples doesn't belong to all" evaluate all model . --samples f
    refuses 64 '--date needs --chat' evaluate boolq model story.txt --date 2025-01-01
    refuses 64 "'entropy' can't be measured" evaluate entropy model story.txt
    refuses 64 'what is to be measured' evaluate
    refuses 64 'operands are needed' evaluate perplexity model
    refuses 64 'operands are needed' evaluate kl model story.txt
    refuses 64 "unexpected operand 'b'" evaluate perplexity model a b c
    refuses 64 'can be read once' evaluate all - .
}

@test "-o appears whole or not at all" {
    evaluate -q perplexity model story.txt -o report.json
    [ "$(member report.json tokens)" = 115 ]
    cp report.json before
    run evaluate -q perplexity model absent -o report.json
    [ "$status" -eq 66 ]
    cmp report.json before
    run evaluate -q perplexity model absent -o new.json
    [ ! -e new.json ]
    [ -z "$(find . -name '*.part')" ]
    refuses 73 'cannot create' evaluate -q perplexity model story.txt -o absent/report.json
    run bash -c 'evaluate -q perplexity model story.txt >/dev/full'
    [ "$status" -eq 74 ]
}

@test "sentences run in sh, and bin/eval by its path" {
    sh -e -c 'evaluate perplexity model story.txt --context 64 --stride 32 --limit-tokens 100
        evaluate perplexity model story.txt --hf-rows
        evaluate perplexity model story.txt --rolling
        extract-layer model | evaluate perplexity - story.txt
        extract-layer model | mpo-decompose -q --chi 8 | quantize -q --bits 4 | evaluate kl - model story.txt' >out
    [ "$(grep -c '"task"' out)" -eq 5 ]
    "$BIN/eval" -q perplexity model story.txt -o report.json
    [ "$(member report.json tokens)" = 115 ]
    [ "$(readlink "$BIN/eval")" = evaluate ]
}

@test "all: a missing text is said at once" {
    refuses 66 'wiki.test.raw' evaluate all model .
}

@test "all: what a task lacks is said before the model is read" {
    echo 'Once upon a time.' > wiki.test.raw
    refuses 66 "'hellaswag'" evaluate all nowhere .
    rm wiki.test.raw
}
