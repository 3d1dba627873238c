#!/bin/bash
# memory.sh - 4,096 tokens through a model of Granite 3.3 8B's sizes in bf16 take at most 3 GiB, from a directory and from
# a pipe: layers come and go one at a time, so two of them show what forty take. Prints TAP.
set -eu -o pipefail
limit=$((3 << 30)) tokens=4096
model=$TMPDIR/granite

echo 1..3
skip() { # REASON
    for i in 1 2 3; do echo "ok $i - memory # SKIP $1"; done
    exit
}
(($(df --output=avail -B1 "$TMPDIR" | tail -n 1) > 4 << 30)) || skip 'less than 4 GiB of disk space are free'
(($(awk '/^MemAvailable/ {printf "%d", $2 / 1024}' /proc/meminfo) > 6144)) || skip 'less than 6 GiB of memory are free'

"$PYTHON" "$TOP/tests/tools/random_model.py" --like granite-3.3-8b --layers 2 "$model"
# Any text and any tokenizer will do: ids up to 511 and the weights are random.
cp "$TOP/pipelines/models/stories260K/tokenizer.json" "$model"
awk -v n=$tokens 'BEGIN {for (i = 0; i < n; i++) print "Once upon a time there was a little girl,", i}' >"$TMPDIR/text"

number() { # FILE MEMBER
    "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"
}

failed=0
check() { # NUMBER NAME REPORT
    local peak used
    peak=$(number "$3" peak_memory) used=$(number "$3" tokens)
    echo "# peak: $((peak >> 20)) MiB, $used tokens"
    if ((peak > 0 && peak <= limit)); then
        echo "ok $1 - $2"
    else
        echo "not ok $1 - $2"
        failed=1
    fi
}

options=(-q --context "$tokens" --limit-tokens "$tokens")
evaluate "${options[@]}" perplexity "$model" "$TMPDIR/text" -o "$TMPDIR/a.json"
check 1 'from a directory' "$TMPDIR/a.json"
extract-layer -q "$model" | evaluate "${options[@]}" perplexity - "$TMPDIR/text" -o "$TMPDIR/b.json"
check 2 'from a pipe' "$TMPDIR/b.json"
if cmp <(number "$TMPDIR/a.json" perplexity) <(number "$TMPDIR/b.json" perplexity); then
    echo 'ok 3 - both the same perplexity'
else
    echo 'not ok 3 - both the same perplexity'
    failed=1
fi
exit $failed
