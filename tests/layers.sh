#!/bin/bash
# layers.sh - holds the includes to common/LAYERS: a room knows itself and the rooms above it in that list; each foreign
# library has one door; programs know no foreign library at all. Prints TAP.
set -eu -o pipefail
cd "$(dirname "$0")/.."

number=0
report() { # NAME VIOLATIONS
    number=$((number + 1))
    if [[ -z $2 ]]; then
        echo "ok $number - $1"
    else
        echo "not ok $number - $1"
        printf '%s\n' "$2" | sed 's/^/# /' >&2
        failed=1
    fi
}
failed=0

includes() { # FILE...: lines `FILE HEADER`
    grep -HoE '^#[[:space:]]*include[[:space:]]+["<][^">]+' "$@" | sed -E 's/:#.*["<]/ /'
}

echo 1..4

rooms=$(cd common && find . -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort)
report 'every room is in common/LAYERS' "$(comm -23 <(echo "$rooms") <(sort common/LAYERS))"

report 'a room includes only itself and the rooms above it' "$(includes common/*/*.[ch] | awk '
    FILENAME == "common/LAYERS" {rank[$1] = FNR; next}
    {
        split($1, path, "/")
        if (split($2, header, "/") == 2 && header[1] in rank && rank[header[1]] > rank[path[2]])
            print $1 " includes " $2
    }' common/LAYERS -)"

# One file, or one room where the calls are many, opens onto each foreign library; no header does.
report 'each foreign library has one door' "$(includes common/*/*.[ch] | awk '
    $2 ~ /^(cblas|lapacke|msgpack|xxhash|jansson|pcre2|utf8proc|mpi|nccl|cuda.*|cublas.*|cusolver.*)(\/.*)?\.h$/ {
        split($1, path, "/")
        if ($1 ~ /\.h$/)
            print $1 " is a header and includes " $2
        if ($2 in door && door[$2] != path[2])
            print $2 " is included in common/" door[$2] " and in " $1
        door[$2] = path[2]
    }')"

report 'programs include no foreign library' "$(includes filters/*.c | awk '
    $2 ~ /^(cblas|lapacke|msgpack|xxhash|jansson|pcre2|utf8proc|mpi|nccl|cuda|cublas|cusolver)/ {print $1 " includes " $2}')"

exit $failed
