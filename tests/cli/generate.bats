# generate: text from a prompt, sampling, chat, and the ways in which it ends.

bats_require_minimum_version 1.5.0

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    ln -s "$TOP/pipelines/models/stories260K" model
    lily='Once upon a time, there was a little girl named Lily.'
}

# A field of the JSON lines on standard input.
field() {
    "$PYTHON" -c 'import json, sys
for line in sys.stdin: print(json.loads(line)[sys.argv[1]])' "$1"
}

# The model with other members in a JSON file of its own: model_with FILE KEY=JSON...
model_with() {
    local file=$1
    rm -rf other
    cp -rL model other
    "$PYTHON" - "other/$file" "${@:2}" <<'PY'
import json, os, sys
content = json.load(open(sys.argv[1])) if os.path.exists(sys.argv[1]) else {}
for change in sys.argv[2:]:
    key, value = change.split("=", 1)
    content[key] = json.loads(value)
json.dump(content, open(sys.argv[1], "w"))
PY
}

@test "greedy text is transformers', whatever the source and the device" {
    # 64 tokens by transformers 5.24 in float64.
    expected=" She loved to play outside in the park. One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, \"Lily, let's go"
    [ "$(generate model -p "$lily" --max-tokens 64)" = "$expected" ]
    [ "$(generate model -p "$lily" --max-tokens 64 --threads 3)" = "$expected" ]
    [ "$(generate model -p "$lily" --max-tokens 64 --device reference)" = "$expected" ]
    [ "$(extract-layer model | generate -p "$lily" --max-tokens 64)" = "$expected" ]
    extract-layer model | assemble -q -o whole
    [ "$(generate whole -p "$lily" --max-tokens 64)" = "$expected" ]
    printf '%s\n' "$lily" >prompt
    [ "$(generate model --file prompt --max-tokens 64)" = "$expected" ]
    [ "$(generate model --max-tokens 64 <prompt)" = "$expected" ]
}

@test "a packed and a cut model generate, with int8 activations too" {
    extract-layer model | quantize -q --bits 8 --match '*' >packed.tns
    [[ $(generate packed.tns -p "$lily" --max-tokens 8) == " She loved to play"* ]]
    [[ $(generate packed.tns -p "$lily" --max-tokens 8 --activations int8) == " She loved to play"* ]]
    extract-layer model | mpo-decompose -q --keep 0.9 --force | quantize -q --bits 8 |
        generate - -p "$lily" --max-tokens 8 --json >line
    [ "$(field generated_tokens <line)" = 8 ]
}

@test "lines are prompts, each by itself" {
    printf 'Once upon a time\n%s\nTom had' "$lily" | generate model --max-tokens 12 >all
    for prompt in 'Once upon a time' "$lily" 'Tom had'; do
        generate model -p "$prompt" --max-tokens 12
    done >each
    cmp all each
}

@test "--json tells prompt, text, tokens, counts, speed and why it ended" {
    printf '%s\nTom\n' "$lily" | generate model --max-tokens 5 --json >lines
    [ "$(wc -l <lines)" = 2 ]
    [ "$(field prompt <lines | head -1)" = "$lily" ]
    [ "$(field tokens <lines | head -1)" = "[338, 401, 396, 267, 337]" ]
    [ "$(field prompt_tokens <lines | head -1)" = 16 ]
    [ "$(field generated_tokens <lines | head -1)" = 5 ]
    [ "$(field finish_reason <lines | head -1)" = length ]
    [ "$(field device <lines | head -1)" = cpu ]
    [ "$(field activations <lines | head -1)" = f32 ]
    "$PYTHON" -c 'import json
for line in map(json.loads, open("lines")):
    assert line["seconds"] > 0 and line["prompt_tokens_per_second"] > 0 and line["generated_tokens_per_second"] > 0'
    [ "$(generate model -p Tom --max-tokens 0 --json | field text)" = '' ]
}

@test "it stops at the tokens that end a text: config.json's and generation_config.json's" {
    model_with config.json eos_token_id='[2, 401]'
    generate other -p "$lily" --json >line
    [ "$(field tokens <line)" = "[338]" ]
    [ "$(field finish_reason <line)" = stop ]
    model_with generation_config.json eos_token_id=396
    [ "$(generate other -p "$lily" --json | field tokens)" = "[338, 401]" ]
    model_with generation_config.json eos_token_id='[1, 267]'
    [ "$(generate other -p "$lily" --json | field tokens)" = "[338, 401, 396]" ]
}

@test "a full context ends the text with a note, a prompt beyond it is bad data" {
    model_with config.json max_position_embeddings=20
    generate other -p "$lily" --json >line 2>note
    [ "$(field generated_tokens <line)" = 4 ]
    [ "$(field finish_reason <line)" = context ]
    grep -q "context of 20 tokens is full" note
    run generate other -p "$lily $lily"
    [ "$status" -eq 65 ]
    [[ $output == "generate: the prompt has 31 tokens, expected at most the model's context of 20" ]]
}

@test "an empty prompt is the token that begins a text, where the model has one" {
    model_with tokenizer.json post_processor=null normalizer=null
    [ "$(generate other -p "" --max-tokens 5)" = "Once upon a time," ]
    "$PYTHON" - <<'PY'
import json
config = json.load(open("other/config.json"))
json.dump({**config, "bos_token_id": 1000000}, open("other/config.json", "w"))
PY
    run generate other -p ""
    [ "$status" -eq 65 ]
    [[ $output == "generate: the prompt is empty"* ]]
}

@test "drawn text depends on the seed, not on threads" {
    draw() {
        generate model -p "$lily" --temperature 1 --max-tokens 40 "$@"
    }
    [ "$(draw --seed 7 --threads 1)" = "$(draw --seed 7 --threads 4)" ]
    [ "$(draw --seed 7)" != "$(draw --seed 8)" ]
    [ "$(draw --top-k 1)" = "$(generate model -p "$lily" --max-tokens 40)" ]
    [ "$(draw --top-p 0)" = "$(generate model -p "$lily" --max-tokens 40)" ]
    printf '%s\n%s\n' "$lily" "$lily" | generate model --temperature 1 --max-tokens 40 --json | field text >two
    [ "$(sort -u two | wc -l)" -gt "$(generate model -p "$lily" --max-tokens 40 --json | field text | wc -l)" ]
}

@test "misuse is refused" {
    for options in "--temperature -1 -p x" "--top-p 2 -p x" "--top-k 0 -p x" "--max-tokens -1 -p x" "--top-k 5 -p x" \
        "--seed 1 -p x" "-p x --file y" "--messages x --system y" "--template nothing -p x" \
        "--thinking --template chatml -p x"; do
        # shellcheck disable=SC2086
        run -64 generate model $options
        [ "${#lines[@]}" -eq 1 ]
    done
    run -64 generate - </dev/null
    run -69 generate model --device nothing -p x
    [[ $output == *"there are cpu, reference" ]]
    run -66 generate nowhere -p x
    run -66 generate model --file nowhere
    run -66 generate model --template chatml --messages nowhere
}

@test "a template is the model's, or named, or in a file; an unknown one names --template" {
    run -69 generate model --chat -p Hi
    [[ $output == *"has no chat template; --template"* ]]
    model_with tokenizer_config.json chat_template='"{{ 5 }}"'
    run -69 generate other --chat -p Hi
    [[ $output == *"--template"* ]]
    chatml="{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    chatml+="'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    printf %s "$chatml" >template.jinja
    expected=$(printf '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant')
    asked() {
        generate "$@" --system S -p Hi --max-tokens 0 --json | field prompt
    }
    [ "$(asked model --template chatml)" = "$expected" ]
    [ "$(asked model --template ./template.jinja)" = "$expected" ]
    quoted=$("$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$chatml")
    model_with tokenizer_config.json chat_template="$quoted"
    [ "$(asked other)" = "$expected" ]
    model_with tokenizer_config.json chat_template="[{\"name\": \"tools\", \"template\": \"x\"},
        {\"name\": \"default\", \"template\": $quoted}]"
    [ "$(asked other)" = "$expected" ]
    model_with chat_template.json chat_template="$quoted"
    [ "$(asked other)" = "$expected" ]
    [ "$(extract-layer other | asked -)" = "$expected" ]
    cp template.jinja other/chat_template.jinja
    rm other/chat_template.json
    [ "$(asked other)" = "$expected" ]
}

@test "conversations come as JSON, a bad one is told by its line" {
    printf '[{"role": "user", "content": "a"}]\n\n%s\n' \
        '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "b"}]}' >talks
    generate model --template llama2 --messages talks --max-tokens 0 --json | field prompt >prompts
    printf '<s>[INST] a [/INST]\n<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nb [/INST]\n' | cmp - prompts
    printf '[{"role": "user"}]\n' >>talks
    run -65 generate model --template llama2 --messages talks --max-tokens 0
    [[ $output == *"line 4 of 'talks'"* ]]
    echo '[{"role": "system", "content": "a"}]' >talks
    run -64 generate model --template llama2 --messages talks
    [[ $output == *'no place for a system message alone' ]]
    printf 'a\0b' >prompt
    run -65 generate model --template llama2 --file prompt
    [[ $output == *'the prompt has a NUL byte'* ]]
    run -64 generate model --template mistral --messages <(echo '[{"role": "assistant", "content": "x"}]')
}

@test "the date in a template is --date's, or today's" {
    asked() {
        generate model --template granite "$@" -p Hi --max-tokens 0 --json | field prompt
    }
    model_with config.json max_position_embeddings=4096
    rm model
    ln -s other model
    [[ $(asked --date 2026-11-05) == *"Today's Date: November 05, 2026."* ]]
    [[ $(asked) == *"Today's Date: $(date +'%B %d, %Y')."* ]]
    [[ $(asked --thinking) == *"<think></think>"* ]]
}

@test "text comes as it is made" {
    mkfifo lines
    generate model --max-tokens 3 <lines >out &
    exec 7>lines
    printf 'Tom\n' >&7
    for _ in $(seq 200); do
        [ "$(wc -l <out)" = 0 ] || break
        sleep 0.05
    done
    [ "$(wc -l <out)" = 1 ]
    exec 7>&-
    wait
}

@test "an interrupt ends the text cleanly, a closed pipe in silence" {
    model_with config.json max_position_embeddings=1000000
    mkfifo lines
    # A background job ignores interrupts, and so does all that a shell in the background starts.
    env --default-signal=INT generate other --max-tokens 1000000 --device reference --json <lines >out 2>errors &
    exec 7>lines
    printf 'Tom\n' >&7
    sleep 1
    kill -INT $!
    rc=0
    wait $! || rc=$?
    exec 7>&-
    [ "$rc" -eq 130 ]
    [ ! -s errors ]
    [ "$(field finish_reason <out)" = interrupted ]
    yes Tom | generate model --max-tokens 3 2>errors | head -1 >out
    [ "${PIPESTATUS[1]}" -eq 141 ]
    [ ! -s errors ]
    run -74 bash -c 'generate model -p Tom --max-tokens 5 >/dev/full'
}
