#!/bin/bash
# kill.sh - the process group of a running graph is killed with -9 at random moments; the same command again must give what an
# undisturbed one gives, byte for byte. Prints TAP. KILLS: how many times; SENTENCE: which graph.
set -eu -o pipefail
cd "$TOP"
kills=${KILLS:-20} sentence=${SENTENCE:-stories-chi16-q8}
RANDOM=${SEED:-1}
folder=${sentence/-/\/}

graph() { # FOLDER
    make --no-print-directory -j4 R="$1" "$sentence" >"$TMPDIR/log" 2>&1
}

contents() { # FOLDER
    (cd "$1/$folder" && find . -type f ! -name '.*' -exec sha256sum {} + | sort -k2)
}

# What has its final name is whole.
all_whole() { # FOLDER
    local stream
    while read -r stream; do
        tensor-info --summary "$stream" >/dev/null || return 1
    done < <(find "$1" -name '*.tns' ! -name '.*')
}

killed_and_again() {
    local group
    setsid make --no-print-directory -j4 R="$TMPDIR/killed" "$sentence" >/dev/null 2>&1 &
    group=$!
    sleep "$(awk -v ms=$((RANDOM % took)) 'BEGIN {print ms / 1000}')"
    kill -9 -- "-$group" 2>/dev/null || true
    wait "$group" 2>/dev/null || true
    all_whole "$TMPDIR/killed" && graph "$TMPDIR/killed" && contents "$TMPDIR/killed" | cmp -s - "$TMPDIR/expected"
}

echo "1..$kills"
mkdir "$TMPDIR/killed"
start=$(date +%s%N)
graph "$TMPDIR/whole"
took=$((($(date +%s%N) - start) / 1000000))
contents "$TMPDIR/whole" >"$TMPDIR/expected"

failed=0
for ((i = 1; i <= kills; i++)); do
    if killed_and_again; then
        echo "ok $i - the same bytes"
    else
        echo "not ok $i - the same bytes"
        failed=1
    fi
    # Every other time the next one starts from the beginning.
    ((i % 2)) || rm -rf "$TMPDIR/killed" && mkdir -p "$TMPDIR/killed"
done
exit $failed
