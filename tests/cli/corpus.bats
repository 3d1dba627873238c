#!/usr/bin/env bats
# generate --corpus: documents drawn from a model, for healing without any data.

load shared

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    ln -s "$TOP/pipelines/models/stories260K" model
}

corpus() {
    generate -q model --max-tokens 30 --seed 3 "$@"
}

# The model with other members in a JSON file of its own: model_with FILE KEY=JSON...
model_with() {
    rm -rf other
    cp -rL model other
    "$PYTHON" -c 'import json, sys
content = json.load(open(sys.argv[1]))
for change in sys.argv[2:]:
    key, value = change.split("=", 1)
    content[key] = json.loads(value)
json.dump(content, open(sys.argv[1], "w"))' "other/$1" "${@:2}"
}

@test "documents are drawn one by one as a prompt's text is, and heal takes them" {
    corpus --corpus 20 >lines
    [ "$(wc -l <lines)" -eq 20 ]
    [ "$(sort -u lines | wc -l)" -gt 15 ]
    "$PYTHON" -c 'import json
for line in open("lines"):
    assert list(json.loads(line)) == ["text"]'
    [ "$(sed -n 1p lines | member /dev/stdin text)" = "\"$(corpus -p '' --temperature 1)\"" ]
    corpus --corpus 1 -p 'Lily had a' >line
    [ "$(member line text)" = "\"Lily had a$(corpus -p 'Lily had a' --temperature 1)\"" ]
    extract-layer model | mpo-decompose -q --keep 0.5 -o cut.tns
    heal -q cut.tns lines --teacher model --steps 1 --context 32 --batch 2 -o healed.tns
    tensor-info healed.tns | grep '"documents":20'
}

@test "a document depends on seed and number alone" {
    corpus --corpus 40 --threads 1 >all
    corpus --corpus 40 --threads 3 --batch 16 -o others
    cmp all others
    corpus --corpus 23 >parts
    corpus --corpus 17 --first 23 --batch 33 >>parts
    cmp all parts
    corpus --corpus 40 --seed 4 >others
    [ "$(cat all others | sort | uniq -d | wc -l)" -lt 5 ]
    corpus --corpus 5 --top-k 1 >same
    [ "$(sort -u same | wc -l)" -eq 1 ]
    extract-layer model | corpus --corpus 40 | cmp all -
}

@test "documents end at what ends a text, or after --max-tokens, or where the context does" {
    model_with config.json eos_token_id='[2, 401]'               # " loved"
    generate other --corpus 30 --max-tokens 60 --seed 3 >lines 2>said
    ended=$(grep -o '[0-9]* of which end by themselves' said | cut -d' ' -f1)
    [ "$ended" -gt 3 ]
    [ "$ended" -lt 30 ]
    grep ' loved' lines && false
    generate -q model --corpus 30 --max-tokens 60 --seed 3 | grep -c ' loved' >count
    [ "$(cat count)" -gt 3 ]
    model_with config.json max_position_embeddings=12
    generate other --corpus 3 >lines 2>said
    grep -q "context of 12 tokens ends documents at 11" said
    grep -q ' of 33 tokens' said
    refuses 65 "expected less than the model's context of 12" generate other --corpus 3 -p "$(printf 'Lily %.0s' {1..20})"
}

@test "what documents begin with: what the tokenizer adds, the token between documents, BOS" {
    generate model --corpus 1 --max-tokens 1 -v 2>&1 | grep -F "documents begin with '<s>'"
    model_with tokenizer.json post_processor=null normalizer=null
    generate other --corpus 1 --max-tokens 1 -v 2>&1 | grep -F "documents begin with '<s>'"
    sed -i 's/"<unk>"/"<|endoftext|>"/g' other/tokenizer.json
    generate other --corpus 1 --max-tokens 1 -v 2>&1 | grep -F "documents begin with '<|endoftext|>'"
    model_with tokenizer.json post_processor=null normalizer=null
    sed -i 's/"\(bos\|eos\)_token": "[^"]*"/"\1_token": null/' other/tokenizer_config.json
    sed -i 's/"bos_token_id": *[0-9]*/"bos_token_id": 1000000/; s/"eos_token_id": *[0-9]*/"eos_token_id": 1000000/' other/config.json
    rm -f other/generation_config.json
    refuses 65 'no token that begins a text: --prompt must begin it' generate other --corpus 1
    generate -q other --corpus 1 --max-tokens 3 -p Lily | grep '^{"text":"Lily'
}

@test "an interrupt leaves whole lines of standard output, and no file; the rest can follow" {
    draw=(generate model --corpus 400 --max-tokens 40 --batch 16 --device reference)
    env --default-signal=INT "${draw[@]}" >lines 2>said &
    for _ in $(seq 600); do
        [ "$(wc -l <lines)" -lt 3 ] || break
        sleep 0.1
    done
    kill -INT $!
    rc=0
    wait $! || rc=$?
    [ "$rc" -eq 130 ]
    count=$(wc -l <lines)
    [ "$count" -ge 3 ]
    [ "$count" -lt 400 ]
    grep -q "^generate: stopped: --first $count goes on" said
    corpus --corpus 1 --first "$count" >>lines
    "$PYTHON" -c 'import json
for line in open("lines"): json.loads(line)'
    env --default-signal=INT "${draw[@]}" -o file 2>said &
    sleep 1
    kill -INT $!
    wait $! || true
    [ -z "$(find . -name '*file*')" ]
    corpus --corpus 2 -o file
    [ "$(wc -l <file)" -eq 2 ]
    run bash -c 'generate -q model --corpus 2 --max-tokens 2 >/dev/full'
    [ "$status" -eq 74 ]
}

@test "misuse is refused" {
    refuses 64 '--first needs --corpus' generate model -p x --first 3
    refuses 64 '--batch needs --corpus' generate model -p x --batch 16
    refuses 64 '--output needs --corpus' generate model -p x -o made
    refuses 64 '--corpus makes plain documents' generate model --corpus 3 --json
    refuses 64 '--corpus makes plain documents' generate model --corpus 3 --file x
    refuses 64 '--temperature must be above 0' generate model --corpus 3 --temperature 0
    refuses 64 '--max-tokens must be above 0' generate model --corpus 3 --max-tokens 0
    refuses 64 'outside 16..4096' generate model --corpus 3 --batch 15
    [ ! -e made ]
}
