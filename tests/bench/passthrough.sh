#!/bin/bash
# A filter that passes every record on, checksums verified, against cat in the same pipe: medians of 7, bytes per second.
# The pipe is cat STREAM | filter > /dev/null and cat STREAM | filter | cat > /dev/null, runs in turn.
set -eu -o pipefail

stream=${TMPDIR:-/tmp}/passthrough.tns
python=${PYTHON:-python3}
mkdir -p "${TMPDIR:-/tmp}/model"
"$python" "${TOP:-.}/tests/tools/random_model.py" --like granite-3.3-8b --layers 1 "${TMPDIR:-/tmp}/model/m" > /dev/null
extract-layer -q "${TMPDIR:-/tmp}/model/m" -o "$stream"
bytes=$(stat -c %s "$stream")

seconds() {
    local start end
    start=$(date +%s%N)
    bash -c "$1"
    end=$(date +%s%N)
    echo $((end - start))
}

median() {
    sort -n | sed -n 4p
}

for tail in "" "| cat"; do
    : > "$TMPDIR/cat"
    : > "$TMPDIR/filter"
    cat "$stream" > /dev/null
    for _ in 1 2 3 4 5 6 7; do
        seconds "cat '$stream' | cat $tail > /dev/null" >> "$TMPDIR/cat"
        seconds "cat '$stream' | mpo-contract -q $tail > /dev/null" >> "$TMPDIR/filter"
    done
    awk -v c="$(median < "$TMPDIR/cat")" -v f="$(median < "$TMPDIR/filter")" -v b="$bytes" -v t="$tail" 'BEGIN {
        printf "pass-through %-6s %.2f GB/s, cat %.2f GB/s, ratio %.2f (wanted: 0.60 at least)\n", t, b / f, b / c, c / f }'
done
