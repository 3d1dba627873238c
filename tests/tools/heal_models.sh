#!/bin/bash
# heal_models.sh FAMILY LOSS [TOP] - makes a small random model `dense`, its cut `cut.tns` with operators of all kinds, a `text`, and
# heals the cut in 20 steps, with LOSS block one block after the other: `healed.tns` and `log`. With TOP the teacher's logits come from
# a file of so many of each token. For tests/cli/heal.bats, teacher-logits.bats and tests/oracles/heal_oracle.py.
set -eu -o pipefail

family=$1 loss=$2 top=${3-}
TOP=$(cd "$(dirname "$0")/../.." && pwd)
rm -rf dense
"${PYTHON:-python3}" "$TOP/tests/tools/random_model.py" dense --family "$family" --set vocab_size=512
cp "$TOP/pipelines/models/stories260K/tokenizer.json" dense/

# Chains of three, low rank, packed (three kinds of offset, integer scales) and trellis-coded, turned on one side or both, with
# residuals in f16 and 8 bits; the rest stays dense.
extract-layer dense |
    mpo-decompose -q --chi 6 --sites 3 --dtype f32 --force -m '*gate_proj*' -m '*0.self_attn.v_proj*' |
    mpo-decompose -q --chi 9 --shape 32x1,1x48 --dtype f32 --force -m '*down_proj*' |
    quantize -q --bits 4 --group 16 -m '*up_proj*' |
    quantize -q --bits 3 --group 8 --zero int --rotate=16 -m '*q_proj*' |
    quantize -q --bits 2 --group 16 --residual-chi 4 --residual-bits 16 -m '*1.self_attn.o_proj*' |
    quantize -q --bits 2 --group 16 --zero none --residual-chi 5 --rotate=8 -m '*2.self_attn.o_proj*' |
    quantize -q --code trellis --rate 2 --state 10 --rotate=full --residual-chi 4 --residual-bits 16 \
        -m '*1.self_attn.v_proj*' |
    quantize -q --code trellis --rate 2.5 -m '*2.self_attn.v_proj*' |
    quantize -q --bits 4 --group 4 --scale-bits 6 -m '*k_proj*' -o cut.tns

echo 'Once upon a time, there was a little girl named Lily. She liked to play in the park with her dog. One day she saw
a big red ball.' >text
teacher=(--teacher dense)
[[ $loss != ce ]] || teacher=()
if [[ $top ]]; then
    evaluate logits -q dense text --top "$top" --context 16 -o logits
    teacher=(--teacher-logits logits)
fi
mix=(--mix 0.3)
[[ $loss == mix ]] || mix=()
how=(--loss "$loss")
[[ $loss != block ]] || how=(--scope block)
# Two windows of 16 tokens and one of 8: all of them in each step.
heal -q cut.tns text "${teacher[@]}" "${how[@]}" "${mix[@]}" --steps 20 --batch 3 --context 16 --lr 0.003 \
    --warmup 3 --log log -o healed.tns
