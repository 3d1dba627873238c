# What the tests of graphs share. `load graphs` makes setup() theirs: $R is where graphs put what they make, $SAID a file.

setup() {
    R=$BATS_TEST_TMPDIR/runs
    SAID=$BATS_TEST_TMPDIR/said
    cd "$TOP" || exit
}

graph() {
    make --no-print-directory V= R="$R" "$@"
}

# The streams of a run, by content; histories name no paths, so two folders can be compared.
contents() {
    (cd "$R/$1" && find . -type f ! -name sizes.json ! -name sentence -exec sha256sum {} + | sort -k2)
}

# refused WORDS ARGUMENT...: make says no, in one line with these words, before it does anything.
refused() {
    local output words=$1
    shift
    if output=$(make --no-print-directory V= R="$R" "$@" 2>&1) || [[ $output == *$'\n'* || $output != *"$words"* || -e $R ]]; then
        echo "$*: $output"
        return 1
    fi
}

# measured RUN EXPRESSION: of its sizes.json, a Python expression of linear, whole, matrices, headers, bpw_linear, ...
measured() {
    python3 -c 'import json, sys; print(eval(sys.argv[2], json.load(open(sys.argv[1]))))' "$R/stories/$1/sizes.json" "$2"
}
