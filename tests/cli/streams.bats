#!/usr/bin/env bats
# Streams between the programs: broken ones, full disks, terminals, records passed through, threads.

setup_file() {
    export ROOT="$BATS_TEST_DIRNAME/../.."
    export MODEL="$ROOT/pipelines/models/stories260K"
    cd "$BATS_FILE_TMPDIR" || exit 1
    extract-layer "$MODEL" -o whole.tns
    extract-layer "$MODEL" --layer 0 -o layer.tns
    mpo-decompose -q --chi 8 whole.tns | quantize -q -o small.tns
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
}

# The sentence that feeds a program the stream bad.tns, leaving its output, if any, as `out`.
feed() {
    case $1 in
    extract-layer) extract-layer - -o out < bad.tns ;;
    mpo-decompose) mpo-decompose -q --chi 4 -o out < bad.tns ;;
    mpo-contract) mpo-contract -o out bad.tns ;;
    quantize) quantize -q -o out < bad.tns ;;
    assemble) assemble -q -o out bad.tns ;;
    tensor-info) tensor-info bad.tns > out.text ;;
    tensor-diff) tensor-diff "$BATS_FILE_TMPDIR/whole.tns" - < bad.tns > out.text ;;
    esac
}

# Exit 65, one line naming record and byte, no output.
refuses() {
    run feed "$1"
    echo "$1, $2: exit $status: $output; left: $(ls -A)"
    [ "$status" -eq 65 ]
    [ "${#lines[@]}" -eq 1 ]
    [[ $output == "$1: cannot read '"*"': record "*", byte "*": "* ]]
    [ ! -e out ]
    [ ! -e .out.part ]
}

programs="extract-layer mpo-decompose mpo-contract quantize assemble tensor-info tensor-diff"

@test "a stream cut at 50 places is refused by each program" {
    size=$(stat -c %s "$BATS_FILE_TMPDIR/small.tns")
    for program in $programs; do
        for i in $(seq 0 49); do
            head -c $((size * i / 50 + i % 7)) "$BATS_FILE_TMPDIR/small.tns" > bad.tns
            refuses "$program" "cut at $((size * i / 50 + i % 7))"
        done
    done
}

@test "a stream with a byte altered at 50 places is refused by each program" {
    size=$(stat -c %s "$BATS_FILE_TMPDIR/small.tns")
    for program in $programs; do
        for i in $(seq 0 49); do
            at=$((size * i / 50 + i % 11))
            cp "$BATS_FILE_TMPDIR/small.tns" bad.tns
            byte=$(od -An -tu1 -j "$at" -N 1 bad.tns)
            printf '%b' "\\x$(printf %02x $((byte ^ (1 << i % 8))))" | dd of=bad.tns bs=1 seek="$at" conv=notrunc status=none
            refuses "$program" "altered at $at"
        done
    done
}

@test "two streams one after the other are not one" {
    cat "$BATS_FILE_TMPDIR/small.tns" "$BATS_FILE_TMPDIR/small.tns" > bad.tns
    for program in $programs; do refuses "$program" "twice"; done
}

@test "a broken head of a pipe poisons its tail" {
    head -c 100000 "$BATS_FILE_TMPDIR/whole.tns" > bad.tns
    run bash -c 'mpo-decompose -q --chi 4 < bad.tns | quantize -q | assemble -q -o out'
    [ "$status" -eq 65 ]
    [ ! -e out ]
}

@test "text and nothing are not streams" {
    echo "hello" > bad.tns
    refuses tensor-info text
    : > bad.tns
    refuses quantize nothing
}

@test "a missing input is 66, a missing output folder 73" {
    run quantize nowhere.tns
    [ "$status" -eq 66 ]
    [[ $output == *"cannot open 'nowhere.tns': No such file or directory" ]]
    run quantize -q -o nowhere/out.tns "$BATS_FILE_TMPDIR/layer.tns"
    [ "$status" -eq 73 ]
}

@test "a full disk is 74 and leaves nothing" {
    for sentence in "extract-layer '$MODEL'" "quantize -q '$BATS_FILE_TMPDIR/layer.tns'" "tensor-info '$MODEL'" \
                    "tensor-info --json '$MODEL'" "tensor-diff '$MODEL' '$MODEL'"; do
        run bash -c "$sentence > /dev/full"
        [ "$status" -eq 74 ] || { echo "$sentence: $status: $output"; false; }
        [[ $output == *"No space left on device" ]]
    done
}

@test "a full file system is 74 and leaves nothing" {
    [ "$(id -u)" -eq 0 ] && mkdir tiny && mount -t tmpfs -o size=256k none tiny 2>/dev/null || skip "no tmpfs can be mounted"
    run mpo-contract -q -o tiny/out.tns "$BATS_FILE_TMPDIR/whole.tns"
    first=$status
    run assemble -q -o tiny/out "$BATS_FILE_TMPDIR/whole.tns"
    left=$(ls -A tiny)
    umount tiny
    echo "$first $status '$left' $output"
    [ "$first" -eq 74 ] && [ "$status" -eq 74 ] && [ -z "$left" ]
}

@test "binary data goes to no terminal and comes from none" {
    run script -qec "extract-layer '$MODEL'" /dev/null
    [ "$status" -eq 64 ]
    run script -qec "quantize -q > out" /dev/null
    [ "$status" -eq 64 ]
}

@test "records that a filter isn't for pass through unchanged" {
    mpo-decompose -q --chi 8 "$BATS_FILE_TMPDIR/whole.tns" | tensor-diff --files "$BATS_FILE_TMPDIR/whole.tns" - > difference || true
    run grep -v -E 'proj|relative error|same$' difference
    [ -z "$output" ]
    mpo-contract -o again.tns "$BATS_FILE_TMPDIR/whole.tns"
    tensor-diff --files "$BATS_FILE_TMPDIR/whole.tns" again.tns
}

@test "equal bytes for 1 and 4 threads" {
    for threads in 1 4; do
        mpo-decompose -q --threads $threads --chi 12 --shape auto "$BATS_FILE_TMPDIR/whole.tns" \
            | quantize -q --threads $threads --bits 3 -o "q$threads.tns"
        mpo-contract --threads $threads -o "c$threads.tns" "q$threads.tns"
    done
    cmp q1.tns q4.tns
    cmp c1.tns c4.tns
}

@test "the history names what was done, and no paths" {
    run tensor-info --json "$BATS_FILE_TMPDIR/small.tns"
    [[ $output == *'"program": "extract-layer"'*'"program": "mpo-decompose"'*'"program": "quantize"'* ]]
    [[ $output != *"$BATS_FILE_TMPDIR"* ]]
    [[ $output != *"/stories260K"* ]]
}

@test "packing and its inverse" {
    quantize -q --bits 8 --group 32 -o packed.tns "$BATS_FILE_TMPDIR/whole.tns"
    quantize -q --inverse -o plain.tns packed.tns
    tensor-diff packed.tns plain.tns
    tensor-diff --tolerance 0.01 "$BATS_FILE_TMPDIR/whole.tns" packed.tns
    run tensor-diff "$BATS_FILE_TMPDIR/whole.tns" packed.tns
    [ "$status" -eq 1 ]
    quantize -q --inverse "$BATS_FILE_TMPDIR/small.tns" | tensor-diff "$BATS_FILE_TMPDIR/small.tns" -
}

# What turned.tns multiplies out to, in every program.
check_turned() {
    whole="$BATS_FILE_TMPDIR/whole.tns"
    mpo-contract turned.tns -o dense.tns
    tensor-diff dense.tns turned.tns
    tensor-diff --tolerance 0.1 "$whole" dense.tns
    run tensor-info dense.tns
    [[ $output != *hadamard* ]]
    assemble -q -o turned turned.tns
    extract-layer turned | cmp turned.tns -
    tensor-info --json turned > info
    assemble -q --dense --dtype f32 -o dense turned.tns
    tensor-diff turned.tns dense
    quantize -q --inverse turned.tns | tensor-diff turned.tns -
    mpo-decompose -q --force --tolerance 1e-4 --dtype f32 --match '*gate*' turned.tns | tensor-diff --tolerance 1e-4 turned.tns -
    echo "Once upon a time there was a cat." > text
    for model in "turned dense" "turned.tns dense.tns"; do
        # shellcheck disable=SC2086
        evaluate -q kl $model text > result
        "$PYTHON" -c 'import json; r = json.load(open("result")); assert abs(r["kl"]) < 1e-7 and r["agreement"] == 1, r'
    done
}

@test "operators behind a transform are what they multiply out to, in every program" {
    quantize -q --bits 4 --group 32 --rotate=16 --seed 3 -o turned.tns "$BATS_FILE_TMPDIR/whole.tns"
    run tensor-info turned.tns
    [[ $output == *"down_proj.weight"*"q4-32-min 64x172 after hadamard 4"* ]]
    [[ $output == *"q_proj.weight"*"q4-32-min 64x64 after hadamard 16"* ]]
    check_turned
    grep -q '"hadamard": 16' info
}

@test "and between transforms of both whole widths" {
    quantize -q --bits 4 --group 32 --rotate=full --seed 3 "$BATS_FILE_TMPDIR/whole.tns" -o turned.tns
    run tensor-info turned.tns
    [[ $output == *"down_proj.weight"*"q4-32-min 64x172 after hadamard 4 hartley 43 before hadamard 64"* ]]
    [[ $output == *"k_proj.weight"*"q4-32-min 32x64 after hadamard 64 before hadamard 32"* ]]
    check_turned
    grep -q '"hartley": 43' info
    grep -q '"rotate": "full"' info
    for threads in 1 2 3; do
        quantize -q --threads "$threads" --bits 4 --group 32 --rotate=full --seed 3 "$BATS_FILE_TMPDIR/whole.tns" | cmp turned.tns -
    done
    # A term more lies between the same transforms, and what is taken apart again is what it was.
    mpo-decompose -q --residual --chi 8 --reference "$BATS_FILE_TMPDIR/whole.tns" turned.tns -o more.tns
    tensor-info more.tns | grep -q 'q_proj.weight .* + .* after hadamard 64 before hadamard 64'
    [ "$(tensor-diff "$BATS_FILE_TMPDIR/whole.tns" turned.tns | tail -n1)" != "$(tensor-diff "$BATS_FILE_TMPDIR/whole.tns" more.tns | tail -n1)" ]
    mpo-contract more.tns | tensor-diff --tolerance 1e-5 more.tns -
}

@test "quantize refuses what it can't do" {
    for options in "--bits 7" "--bits 9" "--bits 1" "--bits x" "--group 0" "--zero maybe" "--inverse --bits 4" "--dtype f16" \
                   "--plan p --bits 4" "a b" "--embedding-bits 1"; do
        # shellcheck disable=SC2086
        run quantize -q $options
        [ "$status" -eq 64 ] || { echo "$options: $status"; false; }
        [ "${#lines[@]}" -eq 1 ]
    done
}

@test "plans: the first line that matches counts, errors name file and line" {
    printf '# comment\n*.q_proj.weight bits=3 group=row zero=none\n*.self_attn.* bits=8\n*down* chi=4\n' > p.plan
    quantize -q --plan p.plan -o out.tns "$BATS_FILE_TMPDIR/layer.tns"
    run tensor-info out.tns
    [[ $output == *"q_proj.weight"*"q3-row-none 64x64"* ]]
    [[ $output == *"k_proj.weight"*"q8-64-min 32x64"* ]]
    [[ $output == *"down_proj.weight"*"f32 64x172"* ]]
    for line in "* bits=7" "* bits" "* depth=3" "* chi=4 keep=.5" "* group=0" "* chi=4 chi=8"; do
        printf '\n%s\n' "$line" > bad.plan
        run quantize -q --plan bad.plan "$BATS_FILE_TMPDIR/layer.tns"
        [ "$status" -eq 65 ]
        [[ $output == *"'bad.plan', line 2"* ]]
    done
}

@test "tensor-info verifies, tensor-diff finds what is missing" {
    tensor-info --verify "$MODEL" | grep -q verified
    run tensor-diff "$BATS_FILE_TMPDIR/whole.tns" "$BATS_FILE_TMPDIR/layer.tns"
    [ "$status" -eq 1 ]
    [[ $output == *"lm_head"* || $output == *"model.norm.weight"*"only in the first"* ]]
    run tensor-diff "$MODEL"
    [ "$status" -eq 64 ]
    run tensor-diff - -
    [ "$status" -eq 64 ]
}

@test "closed standard streams: no message ends up in an output" {
    mpo-decompose --chi 1000 -o out.tns "$BATS_FILE_TMPDIR/whole.tns" 2>&-
    tensor-info out.tns > /dev/null
    mpo-decompose -v --chi 4 -o out.tns "$BATS_FILE_TMPDIR/whole.tns" <&- >&- 2>&-
    tensor-info out.tns > /dev/null
    run bash -c "extract-layer '$MODEL' >&-"
    [ "$status" -eq 74 ]
    run bash -c "quantize -q <&- > out"
    [ "$status" -eq 74 ]
}

@test "a program that is stopped leaves nothing behind" {
    mkfifo pipe
    for signal in INT TERM HUP; do
        for program in "mpo-contract -o out.tns" "assemble -q -o out"; do
            # shellcheck disable=SC2086
            env --default-signal=INT,TERM,HUP $program pipe 3>&- & job=$!
            exec 4> pipe
            head -c 500000 "$BATS_FILE_TMPDIR/whole.tns" >&4
            for _ in $(seq 100); do [ -z "$(ls -d .out*.part 2> /dev/null)" ] || break; sleep 0.02; done
            [ -n "$(ls -d .out*.part)" ]
            kill -s $signal $job
            code=0
            wait $job || code=$?
            exec 4>&-
            [ "$code" -eq $((128 + $(kill -l $signal))) ]
            [ "$(ls -A)" = pipe ]
        done
    done
}

@test "outputs that can't be are refused before the work, links are followed" {
    for name in "" new/ .; do
        run quantize -q -o "$name" "$BATS_FILE_TMPDIR/layer.tns"
        [ "$status" -eq 73 ]
        [ "${#lines[@]}" -eq 1 ]
    done
    echo old > target
    ln -s target link
    quantize -q -o link "$BATS_FILE_TMPDIR/layer.tns"
    [ -L link ]
    tensor-info target > /dev/null
}

@test "help and version arrive, or say so" {
    run bash -c "quantize --help > /dev/full"
    [ "$status" -eq 74 ]
    run bash -c "quantize --version > /dev/full"
    [ "$status" -eq 74 ]
}

@test "summaries say how many weights were changed, and which were not" {
    run quantize --bits 4 -o out.tns "$BATS_FILE_TMPDIR/whole.tns"
    [[ $output == "quantize: 36 of 36 weights packed, embedding and head at 8 bits (--embedding-bits), "*", relative error 0.0"* ]]
    run quantize --bits 4 --match nothing -o out.tns "$BATS_FILE_TMPDIR/whole.tns"
    [[ $output == "quantize: no weight matches: nothing was packed" ]]
    run tensor-info --json --summary "$BATS_FILE_TMPDIR/whole.tns"
    [[ $output == *'"parameters": 260032'* && $output != *tensors* ]]
}
