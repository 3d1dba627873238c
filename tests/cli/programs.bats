# What all programs have in common, and what README says about them.

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    ln -s "$TOP/pipelines/models/stories260K" model
}

programs() {
    find "$BIN" -mindepth 1 -type f -printf '%f\n' | sort
}

# Runs the command for each program and collects what it complains about.
for_each_program() {
    local program
    for program in $(programs); do
        "$1" "$program"
    done >complaints
    cat complaints
    [ ! -s complaints ]
}

# The indented lines behind "Example:" in a program's help.
example_of() {
    "$1" --help | sed -n '/^Example:/,$p' | sed -n 's/^  *//p' | sed '/^-/d'
}

check_help() {
    local text
    text=$("$1" --help 2>errors) || echo "$1: --help exits $?"
    [ ! -s errors ] || echo "$1: --help writes to stderr"
    grep -q '^Usage: ' <<<"$text" || echo "$1: no usage line"
    grep -q '^Example:' <<<"$text" || echo "$1: no example"
    ! grep -E '^ +-[^-a-zA-Z?]' <<<"$text" || echo "$1: a short option that is no letter"
}

check_version() {
    "$1" --version | grep -qE "^$1 \(Lapidary\) [0-9]+\.[0-9]+" || echo "$1: --version is not its name and version"
}

check_misuse() {
    local rc=0
    "$1" --no-such-option </dev/null >out 2>errors || rc=$?
    [ "$rc" -eq 64 ] || echo "$1: an unknown option exits $rc"
    [ "$(wc -l <errors)" -eq 1 ] || echo "$1: an unknown option says $(wc -l <errors) lines"
    grep -q "^$1: " errors || echo "$1: the message doesn't start with its name"
    [ ! -s out ] || echo "$1: an unknown option writes to stdout"
}

check_example() {
    local example rc=0
    example=$(example_of "$1")
    [ -n "$example" ] || echo "$1: the example is empty"
    mkdir "$1.d"
    (cd "$1.d" && ln -s ../model model && sh -e -c "$example" >out 2>errors) || rc=$?
    [ "$rc" -eq 0 ] || echo "$1: the example exits $rc: $(head -1 "$1.d/errors")"
}

@test "each program has help with a usage line and an example" { for_each_program check_help; }
@test "each program tells its version" { for_each_program check_version; }
@test "each program answers an unknown option with one line and 64" { for_each_program check_misuse; }
@test "each program's example runs as it stands" { for_each_program check_example; }

@test "README's table of programs equals ls bin" {
    # shellcheck disable=SC2016 # backquotes of Markdown
    diff <(sed -n 's/^| `\([a-z-]*\)` |.*/\1/p' "$TOP/README.md" | sort) <(programs)
}

@test "each sentence in README runs in sh" {
    # Blocks fenced as sh, in one shell and one directory, as a reader would type them.
    # shellcheck disable=SC2016
    sed -n '/^```sh$/,/^```$/{/^```/d;p}' "$TOP/README.md" >sentences
    [ -s sentences ]
    sh -e sentences
    # Once more where a pipe fails with any of its programs, and with each of the loop's comparisons looked at.
    rm -r cut
    bash -e -o pipefail sentences >said
    [ "$(grep -c 'relative error' said)" -eq 5 ]
    [ "$(grep 'relative error' said | tail -4 | grep -c 'relative error 0\.[0-9]')" -eq 4 ]
}

@test "the driver runs programs, and a shell that finds them" {
    export LAPIDARY_PROGRAMS=$BIN
    local driver=$TOP/pipelines/lapidary
    [ "$("$driver" tensor-info --version)" = "$(tensor-info --version)" ]
    [ "$("$driver" --version)" = "$(tensor-info --version | sed 's/^tensor-info/lapidary/')" ]
    "$driver" --help | grep -q '^  quantize$'
    PATH=/usr/bin:/bin "$driver" shell sh -c 'extract-layer model | tensor-info --summary'
    run "$driver" no-such-program
    [ "$status" -eq 64 ]
    run "$driver" ../../bin/true
    [ "$status" -eq 64 ]
}

@test "install puts all in place, completion works there, uninstall takes all away" {
    command -v help2man >/dev/null || skip "no help2man"
    local root=$BATS_TEST_TMPDIR/root
    make -C "$TOP" --no-print-directory install DESTDIR="$root" PREFIX=/usr >log
    [ "$(find "$root/usr/share/man/man1" -name 'lapidary-*.1' | wc -l)" -eq "$(programs | wc -l)" ]
    grep -q 'tensor.*diff' "$root/usr/share/man/man1/lapidary.1"
    [ "$(grep -l 'lapidary shell' "$root"/usr/share/man/man1/*.1 | wc -l)" -eq $(($(programs | wc -l) + 1)) ]
    [ "$("$root/usr/bin/lapidary" quantize --version)" = "$(quantize --version)" ]

    PATH=$root/usr/bin:$PATH
    # shellcheck disable=SC1091
    . "$root/usr/share/bash-completion/completions/lapidary"
    COMP_WORDS=(lapidary tensor-i) COMP_CWORD=1
    _lapidary
    [ "${COMPREPLY[*]}" = tensor-info ]
    COMP_WORDS=(lapidary quantize --bi) COMP_CWORD=2
    _lapidary
    [ "${COMPREPLY[*]}" = --bits ]

    make -C "$TOP" --no-print-directory uninstall DESTDIR="$root" PREFIX=/usr >log
    [ -z "$(find "$root" -type f)" ]
}
