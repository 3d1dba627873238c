#!/usr/bin/env bats
# heal --loss feature, and --scope block: losses of small models as PyTorch has them, kills, and what it refuses.

load shared

setup_file() {
    heal_models qwen3 block
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    made=$BATS_FILE_TMPDIR/qwen3
}

# Made by tests/oracles/heal_oracle.py --print with torch 2.15.0, transformers 5.24.0 in double precision.
granite_feature='0.025790 0.025164 0.023987 0.022413 0.021057 0.019899 0.018913 0.018071 0.017353 0.016742 0.016228 0.015799 0.015449 0.015168 0.014951 0.014789 0.014674 0.014600 0.014557 0.014538'
qwen3_block='0.829652 0.803778 0.757530 0.700060 0.654059 0.617205 0.587989 0.565091 0.547059 0.532483 0.520276 0.509847 0.500974 0.493597 0.487681 0.483153 0.479894 0.477743 0.476498 0.475932 0.243724 0.231244 0.210354 0.187274 0.170858 0.158576 0.148882 0.140783 0.133769 0.127662 0.122445 0.118121 0.114648 0.111938 0.109883 0.108378 0.107328 0.106649 0.106261 0.106085 0.130478 0.126290 0.118641 0.108907 0.101017 0.094645 0.089462 0.085182 0.081590 0.078542 0.075946 0.073750 0.071921 0.070433 0.069261 0.068375 0.067744 0.067330 0.067091 0.066983'

# What a log says without its clock.
steps_of() {
    sed 's/,"seconds":[^}]*//' "$1"
}

@test "20 steps of granite, all states as targets, have PyTorch's losses" {
    bash "$TOP/tests/tools/heal_models.sh" granite feature
    losses 1e-4 log "$granite_feature"
    tensor-diff --tolerance 1 cut.tns healed.tns | grep '  error' >differences
    grep 1.mlp.up_proj differences
    [ "$(grep -c 'model.norm\|lm_head\|embed' differences)" -eq 0 ]
}

@test "20 steps of each block of qwen3 have PyTorch's losses" {
    losses 1e-4 "$made/log" "$qwen3_block"
    "$PYTHON" -c 'import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [(line["block"], line["step"]) for line in lines] == [(b, s + 1) for b in range(3) for s in range(20)]' "$made/log"
}

@test "what was learnt of blocks is in the model, and nothing else changed" {
    heal -q "$made/healed.tns" "$made/text" --teacher "$made/dense" --scope block --steps 1 --batch 3 --context 16 --lr 0 \
        --log log -o again.tns
    losses 0.02 log '0.4759 0.1061 0.0670'               # scales and 8-bit cores were rounded since
    tensor-diff --tolerance 1 "$made/cut.tns" "$made/healed.tns" | grep '  error' >differences
    for kept in embed_tokens lm_head model.norm 0.self_attn.o_proj; do
        [ "$(grep -c "$kept" differences)" -eq 0 ]
    done
    for changed in 0.input_layernorm 1.self_attn.q_norm 2.self_attn.o_proj 1.self_attn.v_proj 0.mlp.gate_proj 2.mlp.up_proj; do
        grep "$changed" differences
    done
    tensor-info "$made/healed.tns" | grep 'made by heal.*"scope":"block"'
}

block() {
    heal -q "$made/cut.tns" "$made/text" --teacher "$made/dense" --scope block --context 7 "$@"
}

@test "any number of threads, and hidden states in a file, give the same bytes" {
    for way in '--threads 1' '--threads 3' '--memory 0' '--memory 100K'; do
        block --steps 3 --batch 2 "${way% *}" "${way#* }" -o out.tns
        cmp out.tns first.tns 2>/dev/null || [ ! -e first.tns ]
        cp out.tns first.tns
    done
}

@test "batches in parts give blocks the same losses" {
    block --steps 9 --batch 3 --accumulate 2 --log whole -o out.tns
    block --steps 9 --batch 1 --accumulate 6 --log log -o out.tns
    losses 1e-5 log "$(log_losses whole)"
}

@test "blocks with nothing to train are passed through" {
    block --steps 2 --batch 2 -m 'model.layers.1.*' -o out.tns
    [ "$(wc -l <out.tns.work/log)" -eq 2 ]
    tensor-diff --tolerance 1 "$made/cut.tns" out.tns | grep '  error' | cut -d' ' -f1 >differences
    [ "$(grep -c 'layers\.1\.' differences)" -gt 3 ]
    [ "$(grep -vc 'layers\.1\.' differences)" -eq 0 ]
    refuses 64 'nothing to train' block --steps 2 -m 'lm_head.weight' -o nothing.tns
    refuses 64 'nothing to train' heal -q "$made/cut.tns" "$made/text" --teacher "$made/dense" --loss feature --steps 2 \
        --context 7 -m 'model.norm.weight'
}

@test "killed at any moment, blocks go on to the same bytes" {
    local args=(--batch 2 --accumulate 2 --steps 30 --checkpoint-every 2)

    block "${args[@]}" --work whole.work -o whole.tns
    killed_and_resumed heal "$made/cut.tns" "$made/text" --teacher "$made/dense" --scope block --context 7 "${args[@]}"
    echo "# killed $killed times" >&3
    cmp whole.tns out.tns
    [ "$killed" -gt 1 ]
    [ "$(wc -l <work/log)" -eq 90 ]
    diff <(steps_of whole.work/log) <(steps_of work/log)
    [ -z "$(find work whole.work -name 'checkpoint-*' -o -name 'block-*')" ]
}

@test "finished blocks are kept; a damaged one is trained again" {
    block --steps 4 --batch 1 -o whole.tns
    block --steps 4 --batch 1 --checkpoint-every 3 --work work -o /dev/full && false
    [ "$(cd work && echo block-*)" = 'block-0000 block-0001 block-0002' ]
    [ "$(cd work && echo checkpoint-*)" = 'checkpoint-00000007 checkpoint-00000011' ]
    steps_of work/log >log
    printf x | dd of=work/block-0001 bs=1 seek=3000 conv=notrunc status=none
    rm work/checkpoint-00000007
    run block --steps 4 --batch 1 --checkpoint-every 3 --work work -o out.tns
    [[ $output == *"'work/block-0001': its checksum is"*'block 1 is trained again'* ]]
    cmp whole.tns out.tns
    [ "$(wc -l <work/log)" -eq 8 ]                       # of the blocks up to it: the last one's are there already
}

@test "a folder of another training is refused before the first step" {
    block --steps 3 --batch 1 --work work -o /dev/full && false
    rm work/block-0000
    refuses 64 'another model, text or other options' block --steps 3 --batch 1 --lr 0.1 --work work -o out.tns
    heal -q "$made/cut.tns" "$made/text" --context 7 --batch 1 --steps 20 --checkpoint-every 19 --work other -o /dev/full && false
    refuses 64 'another model, text or other options' block --steps 3 --batch 1 --work other -o out.tns
}

@test "blocks that are healed make a cut model say what the dense one does" {
    ln -s "$TOP/pipelines/models/stories260K" model
    for seed in 1 2 3 4 5 6; do
        generate model -q -p 'Once upon a time' --temperature 1 --seed $seed
        echo
    done >text
    generate model -q -p 'One day' --temperature 1 --seed 9 >other
    mpo-decompose model -q --chi 16 -o cut.tns
    heal -q cut.tns text --teacher model --scope block --steps 30 --batch 4 --context 64 -o healed.tns
    for model in cut healed; do
        evaluate -q kl $model.tns model other -o $model.json
    done
    echo "# $(member cut.json kl) $(member healed.json kl)"
    "$PYTHON" -c 'import sys; assert float(sys.argv[2]) < 0.6 * float(sys.argv[1])' "$(member cut.json kl)" \
        "$(member healed.json kl)"
}

@test "memory of blocks is planned; where there isn't enough, it says what would do" {
    run heal "$made/cut.tns" "$made/text" --teacher "$made/dense" --scope block --steps 1 --batch 3 --context 16 -o out.tns
    [[ $output == *'memory: '*' MiB: hidden states '*' a block '* ]]
    for _ in {1..100}; do cat "$made/text"; done >long
    limits_space heal
    run bash -c "ulimit -v 2000000; exec heal '$made/cut.tns' long --teacher '$made/dense' --scope block --steps 1 \\
        --batch 40000 --context 16 -o out.tns"
    [ "$status" -eq 71 ]
    [[ $output == *'MiB of memory would be needed, there are '*'--batch '*' takes '* ]]
}

@test "what blocks can't be healed with is refused" {
    local both=("$made/cut.tns" "$made/text" --steps 1 --batch 1 --context 7)

    refuses 64 '--scope block needs --teacher' heal "${both[@]}" --scope block
    refuses 64 'its loss is feature' block --loss kl -o out.tns
    refuses 64 'its loss is feature' block --loss ce -o out.tns
    refuses 64 'no whole model to measure' block --eval-text "$made/text" -o out.tns
    refuses 64 'needs --work, or -o' block --steps 1
    refuses 64 'reads the teacher twice' heal "${both[@]}" --scope block --teacher - -o out.tns
    refuses 64 '--loss feature needs --teacher' heal "${both[@]}" --loss feature
    refuses 64 '--mix needs --loss mix' heal "${both[@]}" --loss feature --teacher "$made/dense" --mix 0.5
    "$PYTHON" "$TOP/tests/tools/random_model.py" wide --family qwen3 --set vocab_size=512 --set hidden_size=48
    "$PYTHON" "$TOP/tests/tools/random_model.py" deep --family qwen3 --set vocab_size=512 --layers 4
    for other in wide deep; do
        refuses 64 "can't be compared" heal -q "${both[@]}" --loss feature --teacher $other
        refuses 64 "can't be compared" heal -q "${both[@]}" --scope block --teacher $other -o out.tns
    done
}
