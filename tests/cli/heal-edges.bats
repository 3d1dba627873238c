#!/usr/bin/env bats
# heal: what a checkpoint belongs to, what is found out before anything is trained, dates, and data that teaches nothing.

load shared

setup_file() {
    heal_models llama kl
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    made=$BATS_FILE_TMPDIR/llama
    echo '{"messages": [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "It was Lily."}]}' >talk.jsonl
}

distil() {
    heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 --checkpoint-every 1 --work work "$@"
}

@test "a checkpoint belongs to its teacher and to all weights, trained or not" {
    "$PYTHON" "$TOP/tests/tools/random_model.py" other --family llama --set vocab_size=512 --seed 77
    distil --steps 2 --teacher "$made/dense" -o /dev/full && false
    refuses 64 'another model, text or other options' distil --steps 2 --teacher other -o out.tns
    distil --steps 2 --teacher "$made/dense" -o out.tns

    norms() {
        heal -q "$1" "$made/text" --batch 1 --context 16 --train norms --steps 2 --checkpoint-every 1 --work norms -o "$2"
    }
    for seed in 1 2; do
        extract-layer "$made/dense" | quantize -q --bits 3 --rotate --seed $seed -o codes$seed.tns
    done
    norms codes1.tns /dev/full && false
    refuses 64 'another model, text or other options' norms codes2.tns out.tns
    norms codes1.tns out.tns
}

@test "what can't be written is found out before the training" {
    refuses 73 'Is a directory' distil --steps 1 -o .
    refuses 73 'cannot create' distil --steps 1 -o nowhere/out.tns
    [ ! -e work ]
    refuses 64 'needs a folder' heal -q "$made/cut.tns" "$made/text" --context 16 --steps 1 --checkpoint-every 2
    heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 --steps 1 >out.tns
    tensor-info --verify out.tns
}

@test "weights that don't fit are not read" {
    limits_space heal
    truncate -s 4T huge.tns
    run bash -c "cat '$made/cut.tns' | dd of=huge.tns conv=notrunc status=none; exec heal huge.tns '$made/text' --context 16 --steps 1 -o out.tns"
    [ "$status" -eq 71 ]
    [[ $output == *"'huge.tns': "*' MiB of memory would be needed for weights alone, there are '*'--scope block'* ]]
}

@test "a damaged checkpoint goes, and takes no whole one's place" {
    distil --steps 6 -o /dev/full && false
    printf x | dd of=work/checkpoint-00000006 bs=1 seek=3000 conv=notrunc status=none
    run heal -q "$made/cut.tns" "$made/text" --batch 1 --context 16 --checkpoint-every 9 --steps 6 --work work -o /dev/full
    [ "$status" -eq 74 ]
    [ "$(cd work && echo checkpoint-*)" = checkpoint-00000005 ]
}

@test "a log that was a pipe goes on in a file" {
    distil --steps 2 --log >(cat >/dev/null) -o /dev/full && false
    distil --steps 2 -o out.tns
    tensor-info --verify out.tns
}

@test "a text to measure is no text to learn from" {
    heal -q "$made/cut.tns" talk.jsonl --template chatml --batch 1 --context 64 --steps 1 --eval-text "$made/text" --log log -o out.tns
    grep '"perplexity"' log
    refuses 69 'GSM8K, test' heal -q "$made/cut.tns" "$TOP/tests/cli/data/gsm8k_test.jsonl" --context 16 --steps 1 -o out.tns
    refuses 65 'expected "text"' heal -q "$made/cut.tns" talk.jsonl --template chatml --context 64 --steps 1 \
        --eval-text "$TOP/tests/cli/data/gsm8k_test.jsonl" -o out.tns
    refuses 64 '--all: no JSON documents' heal -q "$made/cut.tns" "$made/text" --all --context 16 --steps 1 -o out.tns
}

@test "the date in a template is the same on any day" {
    heal -q "$made/cut.tns" talk.jsonl --template granite --batch 1 --context 128 --steps 1 -o out.tns
    heal -q "$made/cut.tns" talk.jsonl --template granite --date 2025-01-01 --batch 1 --context 128 --steps 1 -o same.tns
    cmp out.tns same.tns
    tensor-info out.tns | grep '"date":"2025-01-01"'
    heal -q "$made/cut.tns" talk.jsonl --template chatml --batch 1 --context 128 --steps 1 -o out.tns
    [ "$(tensor-info out.tns | grep -c '"date"')" -eq 0 ]
}

@test "a step in which no token counts is passed over" {
    heal "$made/cut.tns" talk.jsonl --template chatml --batch 1 --context 8 --epochs 1 --checkpoint-every 1 --work work -o out.tns 2>said
    grep 'no token counts: it is passed over' said
    skipped=$(grep -c '"skipped":true' work/log)
    [ "$skipped" -gt 0 ]
    [ "$skipped" -lt "$(wc -l <work/log)" ]
}
