#!/bin/bash
# heal_memory.sh - one block at a time: twelve blocks take no more memory than three, as the kernel says and the plan, and the plan
# is right. Prints TAP.
set -eu -o pipefail

echo 1..3
(($(df --output=avail -B1 "$TMPDIR" | tail -n 1) > 2 << 30)) || {
    for i in 1 2 3; do echo "ok $i - memory # SKIP less than 2 GiB of disk space are free"; done
    exit
}
cd "$TMPDIR"
awk 'BEGIN {for (i = 0; i < 400; i++) print "Once upon a time there was a little girl,", i}' >text

# Blocks of 13 MiB in f32, all of which is trained: with gradients, moments and the teacher's some 80 MiB.
for layers in 3 12; do
    for seed in 1 2; do
        "$PYTHON" "$TOP/tests/tools/random_model.py" model$layers.$seed --seed $seed --layers $layers --set vocab_size=512 \
            --set hidden_size=512 --set intermediate_size=1536 --set num_attention_heads=8 --set num_key_value_heads=8 \
            --set head_dim=64
        cp "$TOP/pipelines/models/stories260K/tokenizer.json" model$layers.$seed
    done
    "$PYTHON" -c 'import resource, subprocess, sys
subprocess.run(sys.argv[2:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, file=open(sys.argv[1], "w"))' peak$layers \
        heal model$layers.1 text --teacher model$layers.2 --scope block --train matrices,norms --steps 1 --batch 4 --context 128 \
        -o healed$layers 2>said$layers
    sed -n 's/.*memory: \([0-9]*\).*/\1/p' said$layers >plan$layers
    echo "# $layers blocks: $(cat peak$layers) MiB, planned $(cat plan$layers)"
done

failed=0
check() { # NUMBER NAME VALUE MOST
    if ((0 < $3 && $3 <= $4)); then
        echo "ok $1 - $2"
    else
        echo "not ok $1 - $2: $3, at most $4"
        failed=1
    fi
}

check 1 'nine more blocks take less than one of them' "$(cat peak12)" $(($(cat peak3) + 13))
check 2 'the plan says the same of both' "$(cat plan12)" "$(cat plan3)"
# Beside what is planned: the program, threads, buffers of reading.
check 3 'no more than is planned, and 64 MiB' "$(cat peak12)" $(($(cat plan12) + 64))
exit $failed
