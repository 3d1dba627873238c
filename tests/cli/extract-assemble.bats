# extract-layer and assemble: models come back bit for bit, parts join in any order, and nothing half-made is left.

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    TOOLS=$TOP/tests/tools
    PYTHON=${PYTHON:-python3}
    ln -s "$TOP/pipelines/models/stories260K" model
}

random_model() {
    "$PYTHON" "$TOOLS/random_model.py" "$@"
}

same_weights() {
    "$PYTHON" "$TOOLS/compare_weights.py" "$1" "$2"
}

# exits CODE COMMAND... - the command's exit status is CODE, its stderr is one line, kept in $output.
exits() {
    local wanted=$1
    shift
    local rc=0
    "$@" >/dev/null 2>errors </dev/null || rc=$?
    output=$(cat errors)
    [ "$rc" -eq "$wanted" ] || { echo "exit status $rc, expected $wanted: $output"; return 1; }
    [ "$(wc -l <errors)" -eq 1 ] || { echo "not one line: $output"; return 1; }
}

says() {
    [[ $output == *"$1"* ]] || { echo "'$output' has no '$1' in it"; return 1; }
}

# No output and no staging directory of that name.
nothing_left() {
    [ ! -e "$1" ] || { echo "$1 is there"; return 1; }
    [ ! -e ".$1.part" ] || { echo ".$1.part is there"; return 1; }
}

# A copy of the fixture that may be changed.
own_copy() {
    cp -rL model mine
    chmod -R u+w mine
}

@test "extract-layer | assemble gives the original bits, config.json and companion files" {
    extract-layer model | assemble -q -o copy
    same_weights model copy
    for file in config.json generation_config.json tokenizer.json tokenizer_config.json; do
        cmp "model/$file" "copy/$file"
    done
    [ "$(find copy -type f | wc -l)" -eq 5 ]
    extract-layer copy | assemble -q -o again
    cmp copy/model.safetensors again/model.safetensors
}

@test "assemble says what it wrote in one line, and nothing with --quiet" {
    extract-layer model -o m.tns
    [ "$(assemble m.tns -o copy 2>&1)" = "assemble: 'copy': 47 tensors, 1.0 MB, 260032 parameters" ]
    [ -z "$(assemble -q m.tns -o silent 2>&1)" ]
}

@test "families, 16-bit dtypes, many shards" {
    for family in llama mistral granite qwen2 qwen3; do
        random_model "$family" --family "$family" --dtype BF16 --max-shard-size 20000
        extract-layer "$family" | assemble -q -o "$family.copy" --max-shard-size 30KB
        [ -e "$family.copy/model.safetensors.index.json" ]
        [ ! -e "$family.copy/model.safetensors" ]
        same_weights "$family" "$family.copy"
        cmp "$family/config.json" "$family.copy/config.json"
    done
    random_model half --dtype F16
    extract-layer half | assemble -q -o half.copy
    same_weights half half.copy
}

@test "shards are named and cut as Hugging Face has it" {
    random_model m --dtype F32
    extract-layer m | assemble -q -o copy --max-shard-size 40000
    count=$(find copy -name '*.safetensors' | wc -l)
    [ "$count" -gt 2 ]
    for ((i = 1; i <= count; i++)); do
        file=$(printf 'copy/model-%05d-of-%05d.safetensors' "$i" "$count")
        [ "$(stat -c %s "$file")" -le $((40000 + 4096)) ]
    done
    extract-layer m | assemble -q -o tiny --max-shard-size 1
    [ "$(find tiny -name '*.safetensors' | wc -l)" -eq 30 ]
    same_weights m tiny
    extract-layer tiny >tiny.tns
    extract-layer copy >copy.tns
    [ "$(stat -c %s tiny.tns)" -eq "$(stat -c %s copy.tns)" ]
}

@test "a tied head is kept where it is stored and not made where it isn't" {
    random_model tied --set tie_word_embeddings=true
    random_model stored --set tie_word_embeddings=true --store-head
    random_model untied
    for model in tied stored untied; do
        extract-layer $model | assemble -q -o $model.copy
        same_weights $model $model.copy
    done
}

@test "parts join in any order, from files, pipes and models" {
    extract-layer model --layer rest -o rest.tns
    extract-layer model --layer 0,2-3 -o some.tns
    extract-layer model --layer 4 -o last.tns
    extract-layer model --layer 1 | assemble -q last.tns - rest.tns some.tns -o copy
    extract-layer model | assemble -q -o whole
    cmp copy/model.safetensors whole/model.safetensors
    assemble -q model -o straight
    cmp copy/model.safetensors straight/model.safetensors
    extract-layer model >whole.tns
    extract-layer whole.tns --layer 0,2-3 | cmp - some.tns
    extract-layer --layer 0,2-3 <whole.tns | cmp - some.tns
}

@test "--match takes what has a matching name" {
    extract-layer model --match '*.q_proj.*' --match '*norm*' --layer 1,rest -o part.tns
    tensor-info part.tns >listing
    grep -q 'layers.1.self_attn.q_proj.weight' listing
    grep -q 'layers.1.input_layernorm.weight' listing
    grep -q 'model.norm.weight' listing
    [ "$(grep -cE 'k_proj|embed|layers\.0|config' listing)" -eq 0 ]
}

@test "layers and names that don't exist" {
    exits 64 extract-layer model --layer 5
    says '5 is outside 0..4'
    exits 64 extract-layer model --layer 3-9
    exits 64 extract-layer model --layer 3-2
    exits 64 extract-layer model --layer all
    exits 64 extract-layer model --layer ''
    exits 64 extract-layer model model
    exits 65 extract-layer model --match 'nothing*'
    extract-layer model --layer 0 -o zero.tns
    exits 65 extract-layer zero.tns --layer 1 -o one.tns
    says 'layer 1 is not in it'
    nothing_left one.tns
}

@test "the same record twice" {
    extract-layer model -o whole.tns
    extract-layer model --layer 2 -o two.tns
    exits 65 assemble whole.tns two.tns -o out
    says "'model.layers.2.input_layernorm.weight'"
    says "'whole.tns'"
    says "'two.tns'"
    nothing_left out
    exits 65 assemble whole.tns whole.tns -o out
    nothing_left out
}

@test "missing layers and tensors" {
    extract-layer model --layer rest -o rest.tns
    extract-layer model --layer 0-1 -o some.tns
    exits 65 assemble rest.tns some.tns -o out
    says 'missing layers 2-4'
    nothing_left out
    exits 65 assemble some.tns -o out
    says "and 'model.embed_tokens.weight', 'model.norm.weight'"
    extract-layer model --match '*[!qk]_proj*' --match '*norm*' --match '*embed*' -o few.tns
    exits 65 assemble few.tns -o out
    says 'and 7 more'
    nothing_left out
}

@test "streams of different models" {
    random_model other
    extract-layer other --layer 0 -o other.tns
    extract-layer model --layer rest -o rest.tns
    exits 65 assemble rest.tns other.tns -o out
    says "'other.tns'"
    nothing_left out
}

@test "shapes that aren't the configuration's" {
    own_copy
    sed -i 's/"intermediate_size": 172/"intermediate_size": 173/' mine/config.json
    exits 65 assemble mine -o out
    says 'shape [64,172], expected [64,173]'
    nothing_left out
}

@test "an existing output is refused, and replaced with --force" {
    extract-layer model -o m.tns
    random_model other
    assemble -q m.tns -o out
    exits 73 assemble other -o out
    says 'it exists'
    same_weights model out
    assemble -q other -o out --force
    same_weights other out
    [ ! -e out/tokenizer.json ]
    [ ! -e .out.part ]
    mkdir empty
    exits 73 assemble m.tns -o empty
    assemble -q m.tns -o empty/ --force
    same_weights model empty
}

@test "--force replaces models only" {
    mkdir -p home/sub
    touch home/letter home/config.json file
    exits 73 assemble model -o home --force
    says 'not a model directory'
    [ -e home/letter ]
    rmdir home/sub
    rm home/config.json
    exits 73 assemble model -o home --force
    [ -e home/letter ]
    exits 73 assemble model -o file --force
    [ -f file ]
    exits 73 assemble model -o nowhere/out
    exits 73 assemble model -o . --force
}

@test "a failure leaves what stood there as it was" {
    extract-layer model -o m.tns
    assemble -q m.tns -o out
    head -c 500000 m.tns >cut.tns
    exits 65 assemble cut.tns -o out --force
    same_weights model out
    [ ! -e .out.part ]
}

@test "a second writer is refused; what a killed one left is taken over" {
    extract-layer model -o m.tns
    mkfifo pipe
    assemble -q pipe -o out 2>first.errors &
    exec 7>pipe
    head -c 300000 m.tns >&7
    for ((i = 0; i < 100; i++)); do
        [ ! -d .out.part ] || break
        sleep 0.05
    done
    exits 73 assemble m.tns -o out
    says 'another process'
    kill -KILL $!
    wait $! || true
    exec 7>&-
    [ -d .out.part ]
    assemble -q m.tns -o out
    same_weights model out
    [ ! -e .out.part ]
}

@test "misuse of assemble" {
    exits 64 assemble model
    says '-o DIR'
    exits 64 assemble model -o -
    exits 64 assemble model -o out --dtype f16
    exits 64 assemble model -o out --max-shard-size 0
    exits 64 assemble model -o out --max-shard-size 5TB
    exits 64 assemble model -o out --max-shard-size 9999999GB
    nothing_left out
}

@test "directories that are no models" {
    mkdir empty pickles
    exits 66 extract-layer empty
    says 'empty/config.json'
    exits 66 extract-layer nowhere
    cp model/config.json pickles
    exits 66 extract-layer pickles
    touch pickles/pytorch_model.bin
    exits 65 extract-layer pickles
    says pickles
    echo '{"model_type": "gpt2"}' >pickles/config.json
    own_copy
    echo '{"model_type": "gpt2"}' >mine/config.json
    exits 65 extract-layer mine
    says gpt2
    echo 'not JSON' >mine/config.json
    exits 65 extract-layer mine
    echo some text >text
    exits 65 extract-layer text
    exits 65 assemble text -o out
    : >nothing
    exits 65 assemble nothing -o out
    nothing_left out
}

@test "truncated safetensors at many places" {
    own_copy
    for size in 0 7 8 100 6000 7000 100000 1044991; do
        head -c "$size" model/model.safetensors >mine/model.safetensors
        exits 65 extract-layer mine -o out.tns
        says mine/model.safetensors
        nothing_left out.tns
    done
    { cat model/model.safetensors; echo; } >mine/model.safetensors
    exits 65 extract-layer mine
}

@test "a missing shard is named" {
    random_model m --max-shard-size 40000
    rm m/model-00002-of-*
    exits 66 extract-layer m
    says model-00002-of-
}

@test "a directory of packed matrices gives its stream back" {
    extract-layer model | quantize -q --bits 3 --group 24 --zero min -o packed.tns
    assemble -q packed.tns -o packed --max-shard-size 40KB
    grep -q '"model_type": "lapidary"' packed/config.json
    extract-layer packed -o again.tns
    tensor-diff packed.tns again.tns
    assemble -q again.tns -o packed2 --max-shard-size 40KB
    for file in packed/*.safetensors packed/tokenizer.json; do
        cmp "$file" "packed2/${file#packed/}"
    done
    extract-layer again.tns --match config.json | assemble packed.tns - -o out 2>errors || rc=$?
    [ "$rc" -eq 65 ]
}

@test "integer scales keep their name and their bytes through a directory" {
    local zero
    for zero in none int min; do
        extract-layer model | quantize -q --bits 3 --group 8 --zero "$zero" --scale-bits 6 -o packed.tns
        tensor-info packed.tns | grep -q "q3-8-$zero-s6"
        rm -rf packed
        assemble -q packed.tns -o packed --max-shard-size 40KB
        extract-layer packed -o again.tns
        tensor-diff packed.tns again.tns
        tensor-info packed | grep -q "q3-8-$zero-s6"
    done
    # another payload than the name asks for
    sed -i "s/q3-8-min-s6/q3-8-min-s8/g" packed/*.safetensors
    exits 65 extract-layer packed
    says "bytes, expected"
}

@test "assemble --dense makes a plain checkpoint" {
    extract-layer model | quantize -q --bits 4 --group 32 --zero min -o packed.tns
    assemble -q packed.tns --dense -o dense
    cmp dense/config.json model/config.json
    mpo-contract packed.tns | assemble -q -o contracted
    same_weights dense contracted
    assemble -q packed.tns -o packed
    assemble -q packed --dense -o again
    cmp dense/model.safetensors again/model.safetensors
    assemble -q packed --dense --dtype bf16 -o short
    grep -q '"dtype": "bfloat16"' short/config.json
    [ "$(stat -c %s short/model.safetensors)" -lt 600000 ]
    assemble -q model --dense -o plain
    same_weights model plain
}

@test "a config.json in an unusual style comes back from a packed model byte for byte" {
    own_copy
    tr -d '\n' <model/config.json >mine/config.json
    extract-layer mine | quantize -q --bits 8 --group 32 | assemble -q -o packed
    assemble -q packed --dense -o dense
    cmp dense/config.json mine/config.json
}

@test "the history of a dense model tells how it was made, and only then" {
    extract-layer model | assemble -q -o copy
    [ "$(grep -c lapidary copy/model.safetensors)" -eq 0 ]
    extract-layer model | quantize -q --bits 8 --group 32 | assemble -q --dense -o dense
    grep -aq '"lapidary_history":' dense/model.safetensors
    [ "$(extract-layer dense -o /dev/stdout | head -c 1500 | grep -ao program | wc -l)" -eq 2 ]
}

@test "a full disk exits 74 and leaves nothing" {
    command -v unshare >/dev/null && unshare -rm true 2>/dev/null || skip "unshare is not permitted"
    extract-layer model -o m.tns
    mkdir small
    unshare -rm sh -c 'mount -t tmpfs -o size=600k tmpfs small || exit 200
        assemble m.tns -o small/out 2>errors
        echo $? >code
        ls -A small >left' || skip "mounting is not permitted"
    [ "$(cat code)" -eq 74 ]
    [ ! -s left ]
}
