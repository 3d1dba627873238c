#!/usr/bin/env bats
# heal in several processes over MPI: the same numbers as in one, equal bytes for equal ranks, states that any number of ranks
# goes on from, and ends where one of them does.

load shared

setup_file() {
    heal_models llama kl
    cat text text text >longer
}

setup() {
    cd "$BATS_TEST_TMPDIR" || exit 1
    ln -s "$BATS_FILE_TMPDIR/llama" made
    # Of a launcher that the tests themselves may run under.
    unset "${!OMPI_@}" "${!PMIX_@}" "${!PMI_@}" "${!SLURM_@}"
    # Under the sanitizers: MPI leaves memory behind.
    export ASAN_OPTIONS=detect_leaks=0
}

teardown() {
    [ -z "${launcher-}" ] || kill "$launcher"
}

needs_mpi() {
    command -v mpirun >/dev/null || skip 'no mpirun (MPI)'
}

# heal by N processes: ranks N OPTION...
ranks() {
    local count=$1
    shift
    mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$count" heal -q made/cut.tns made/text --threads 1 "$@"
}

alone() {
    heal -q made/cut.tns made/text --threads 1 "$@"
}

distilled=(--teacher made/dense --context 4 --lr 0.003 --warmup 3)

# The losses of two logs: the worst relative difference at most BOUND. close BOUND LOG LOG
close() {
    "$PYTHON" -c 'import json, sys
one, two = ([json.loads(line) for line in open(path)] for path in sys.argv[2:])
worst = max(abs(a[key] / b[key] - 1) for a, b in zip(one, two) for key in ("loss", "gradient_norm"))
print(f"{len(one)} steps off by {worst}")
assert len(one) == len(two) and worst <= float(sys.argv[1])
assert all(a["counted_tokens"] == b["counted_tokens"] for a, b in zip(one, two))' "$@"
}

@test "1, 2 and 4 ranks that share a batch have the same losses; equal ranks, and shared moments, give equal bytes" {
    needs_mpi
    alone "${distilled[@]}" --batch 4 --steps 20 --log log.1 -o 1.tns
    for count in 2 4; do
        ranks "$count" "${distilled[@]}" --batch 4 --steps 20 --log "log.$count" -o "$count.tns"
        ranks "$count" "${distilled[@]}" --batch 4 --steps 20 --shard --log log -o shard.tns
        close 1e-5 "log.$count" log.1
        cmp "$count.tns" shard.tns
        [ "$(sed 's/,"seconds.*//' log)" = "$(sed 's/,"seconds.*//' "log.$count")" ]
    done
}

# Micro-batches are added in one tree, whoever has them.
@test "ranks that share out micro-batches give the bytes of one process" {
    needs_mpi
    alone "${distilled[@]}" --batch 1 --accumulate 4 --steps 3 -o 1.tns
    ranks 2 "${distilled[@]}" --batch 1 --accumulate 4 --steps 3 -o 2.tns
    cmp 1.tns 2.tns
    ranks 4 "${distilled[@]}" --batch 1 --accumulate 4 --steps 3 --shard -o 4.tns
    cmp 1.tns 4.tns
    alone "${distilled[@]}" --batch 1 --accumulate 3 --steps 3 -o 1.tns
    ranks 3 "${distilled[@]}" --batch 1 --accumulate 3 --steps 3 --shard -o 3.tns
    cmp 1.tns 3.tns
    refuses 64 "4 ranks can't share 2 x 3 windows evenly: --batch would have to be a multiple of 2" \
        silent ranks 4 --batch 3 --accumulate 2 --context 4 --steps 1 -o out.tns
}

@test "each rank reads the teacher's logits of its own windows" {
    needs_mpi
    evaluate logits -q made/dense made/text --top 20 --context 4 -o logits
    options=(--teacher-logits logits --context 4 --lr 0.003 --accumulate 4 --batch 1 --steps 3)
    alone "${options[@]}" -o 1.tns
    alone "${distilled[@]}" --accumulate 4 --batch 1 --steps 3 -o whole.tns
    cmp -s 1.tns whole.tns && false
    ranks 2 "${options[@]}" -o 2.tns
    cmp 1.tns 2.tns
    ranks 4 "${options[@]}" --shard -o 4.tns
    cmp 1.tns 4.tns
}

@test "states as targets are the same for any number of ranks; single blocks are for one process" {
    needs_mpi
    options=("${distilled[@]}" --loss feature --accumulate 4 --batch 1 --steps 3)
    alone "${options[@]}" -o 1.tns
    ranks 2 "${options[@]}" -o 2.tns
    cmp 1.tns 2.tns
    ranks 4 "${options[@]}" --shard -o 4.tns
    cmp 1.tns 4.tns
    refuses 64 '--scope block is for one process: ' silent ranks 2 "${distilled[@]}" --scope block --steps 1 -o out.tns
    refuses 64 '--scope block is for one process, and --plan' alone "${distilled[@]}" --scope block --plan=2
    OMPI_COMM_WORLD_SIZE=1 alone "${distilled[@]}" --scope block --shard --batch 2 --steps 2 -o shard.tns
    alone "${distilled[@]}" --scope block --batch 2 --steps 2 -o out.tns
    cmp out.tns shard.tns
}

# What mpirun itself has to say about the end of its processes is put aside.
silent() {
    "$@" 2>all
    local status=$?
    grep '^heal' all >&2
    return $status
}

@test "after 100 steps ranks are still within 1e-3, and perplexities are shared" {
    needs_mpi
    options=(--batch 4 --steps 100 --eval-text made/text --eval-every 50)
    alone "${distilled[@]}" "${options[@]}" --log log.1 -o 1.tns
    ranks 2 "${distilled[@]}" "${options[@]}" --log log.2 -o 2.tns
    tail -1 log.1 >last.1
    tail -1 log.2 >last.2
    close 1e-3 last.1 last.2
    [ "$(grep -c perplexity log.2)" -eq 2 ]
    "$PYTHON" -c 'import json
one, two = (json.loads(open(f"last.{i}").read())["perplexity"] for i in (1, 2))
assert abs(one / two - 1) < 1e-3, (one, two)'
}

@test "a state that 2 ranks have written 1 and 4 go on from, to the same bytes where sums are the same" {
    needs_mpi
    options=("${distilled[@]}" --batch 1 --accumulate 4 --steps 6 --checkpoint-every 2)
    alone "${options[@]}" --work whole.work -o whole.tns
    ranks 2 "${options[@]}" --shard --work work -o /dev/full && false
    [ "$(cd work && echo checkpoint-*)" = 'checkpoint-00000004 checkpoint-00000006' ]
    rm work/checkpoint-00000006
    cp -r work work.4
    alone "${options[@]}" --work work -o 1.tns
    cmp whole.tns 1.tns
    ranks 4 "${options[@]}" --work work.4 -o 4.tns
    cmp whole.tns 4.tns
    [ "$(wc -l <work.4/log)" -eq 6 ]
    [ -z "$(find work work.4 -name 'checkpoint-*')" ]
}

# Two processes with their own options: pair 'OPTIONS of rank 0' 'OPTIONS of rank 1' OPTION...
pair() {
    # shellcheck disable=SC2016 # for the other shell
    mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 bash -c 'number=$((OMPI_COMM_WORLD_RANK + 1))
own=(${!number})
shift 2
exec heal -q made/cut.tns --threads 1 "${own[@]}" "$@"' bash "$@"
}

@test "a rank that is killed ends all, and the last state is whole" {
    needs_mpi
    options=("${distilled[@]}" --batch 1 --accumulate 2 --steps 1000000 --checkpoint-every 5 --work work)
    # shellcheck disable=SC2016
    mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 bash -c 'echo $$ >pid.$OMPI_COMM_WORLD_RANK
exec heal -q made/cut.tns made/text --threads 1 "$@"' bash "${options[@]}" -o out.tns >said 2>&1 3>&- &
    launcher=$!
    for _ in {1..300}; do
        [ ! -e work ] || [ -z "$(find work -name 'checkpoint-*[0-9]')" ] || break
        sleep 0.1
    done
    kill -KILL "$(cat pid.1)"
    status=0
    wait $launcher || status=$?
    launcher=
    cat said
    [ "$status" -eq 137 ]
    grep 'exited on signal 9' said
    [ ! -e out.tns ]
    last=$(cd work && printf '%s\n' checkpoint-*[0-9] | tail -1)
    step=$((10#${last#checkpoint-}))
    heal made/cut.tns made/text --threads 1 "${options[@]}" -o out.tns 2>said 3>&- &
    launcher=$!
    for _ in {1..300}; do
        [ "$(wc -l <work/log)" -le "$((step + 5))" ] || break
        sleep 0.1
    done
    kill -KILL $launcher
    wait $launcher || launcher=
    cat said
    grep "goes on behind step $step\$" said
    [ "$(grep -c checksum said)" -eq 0 ]
    [ "$(wc -l <work/log)" -gt "$step" ]
}

@test "a rank whose teacher's logits can't be read any more ends all" {
    needs_mpi
    mkdir 0 1
    evaluate logits -q made/dense made/text --top 5 --context 4 -o 0/logits
    cp 0/logits 1/
    pair 'made/text --teacher-logits 0/logits' 'made/text --teacher-logits 1/logits' --context 4 --batch 2 --steps 1000000 \
        --log log -o out.tns >said 2>&1 3>&- &
    launcher=$!
    for _ in {1..300}; do
        [ ! -s log ] || break
        sleep 0.1
    done
    truncate --size 100 1/logits
    status=0
    wait $launcher || status=$?
    launcher=
    cat said
    [ "$status" -eq 65 ]
    [ "$(grep -c "^heal, rank 1: '1/logits'" said)" -eq 1 ]
    [ "$(grep -c '^heal' said)" -eq 1 ]
}

# Whatever goes wrong for one rank ends all of them: with its message, and none from the others.
@test "what one rank alone finds wrong ends all, and is said once" {
    needs_mpi
    refuses 66 "heal, rank 1: cannot open 'nowhere'" silent pair made/text nowhere "${distilled[@]}" --steps 1 --batch 2 -o out.tns
    refuses 64 'heal, rank 1: another model, text or other options than those of rank 0: "lr" is 0.1, not 0.2' \
        silent pair 'made/text --lr 0.2' 'made/text --lr 0.1' --context 4 --steps 1 --batch 2 -o out.tns
    refuses 64 'heal, rank 1: another model, text or other options than those of rank 0: "dtype" is nothing, not "f16"' \
        silent pair 'made/text --dtype f16' made/text --context 4 --steps 1 --batch 2 -o out.tns
    refuses 64 'heal, rank 1: another model, text or other options' \
        silent pair made/text made/longer --context 4 --steps 1 --batch 2 -o out.tns
    refuses 74 "heal: cannot write" silent ranks 2 --context 4 --steps 2 --batch 2 --log /dev/full -o out.tns
    refuses 73 "heal: cannot create" silent ranks 2 --context 4 --steps 2 --batch 2 -o nowhere/out.tns
    refuses 66 "heal: cannot open 'absent'" silent ranks 2 absent --context 4 --steps 2 --batch 2 -o out.tns
    refuses 64 "heal: standard input goes to one of 2 ranks" silent ranks 2 - --context 4 --steps 2 --batch 2 -o out.tns
}

@test "without Open MPI's library, or with another one, it says so" {
    export OMPI_COMM_WORLD_SIZE=2 LD_LIBRARY_PATH=$PWD
    echo 'no library' | tee libmpi.so libmpi.so.12 >libmpi.so.40
    refuses 69 'there is no library of Open MPI' alone --context 4 --steps 1 --batch 2
    rm libmpi*
    echo 'int MPI_Init_thread(void) { return 0; }' | "${CC:-gcc}" -shared -o libmpi.so.40 -x c -
    refuses 69 "the MPI library isn't Open MPI's, the one that is known: it has no ompi_mpi_comm_world" \
        alone --context 4 --steps 1 --batch 2
    rm libmpi*
    OMPI_COMM_WORLD_SIZE=1 alone --context 4 --steps 1 --batch 2 -o out.tns
    needs_mpi
    refuses 69 'the launcher started 2 processes, but MPI sees 1' silent alone --context 4 --steps 1 --batch 2
}

plan() {
    heal "$TOP/pipelines/models/stories260K" made/text --train matrices --context 16 --threads 1 "$@"
}

@test "a plan says memory, messages and time, and does nothing else" {
    plan --batch 4 --plan=1 >plan.1
    for count in 2 4; do
        plan --batch 4 --plan=$count --link 1M >"plan.$count"
    done
    plan --batch 4 --plan=4 --link 1M --shard >plan.shard
    plan --batch 4 --plan=4 >plan.copied
    [ "$(echo *)" = 'made plan.1 plan.2 plan.4 plan.copied plan.shard' ]
    "$PYTHON" -c 'import re
def number(name, pattern):
    return float(re.search(pattern + r" ([0-9.]+)", open("plan." + name).read()).group(1))
two, four, shard, copied = (number(name, "link:") for name in ("2", "4", "shard", "copied"))
assert abs(four / two - 1.5) < 0.01 and four == shard == copied and two > 0.5, (two, four, shard)
assert abs(number("4", "messages:") / four - 1) < 0.01
assert number("copied", "messages:") < 0.1
left = number("4", "of which")
parts = number("4", "compute:") + number("4", "forwards,") + number("4", "update:") + left
assert 0 < left <= number("4", "messages:") and abs(number("4", "step:") / parts - 1) < 0.01
trained = [number(name, "gradients and moments") for name in ("1", "4", "shard")]
assert trained[0] < trained[1] and trained[2] < trained[1]
assert "link" not in open("plan.1").read()
weights = [number(name, "blocks") for name in ("1", "2", "4")]
assert weights[0] > weights[1] > weights[2]'
    refuses 64 "3 ranks can't share 1 x 4 windows evenly" plan --batch 4 --plan=3
    for few in '' --plan --plan=1; do
        refuses 64 '--link needs --plan=N of several' plan $few --link 1M
    done
    needs_mpi
    refuses 64 "--link is of ranks that aren't there" silent mpirun --allow-run-as-root --oversubscribe -n 2 heal made/cut.tns made/text \
        --context 4 --batch 2 --plan=2 --link 1M
    mpirun --allow-run-as-root --oversubscribe -n 2 heal made/cut.tns made/text --context 4 --batch 2 --plan >plan.both
    grep '^ranks: 2, all here$' plan.both
    grep '^messages: .* (measured)' plan.both
    refuses 64 '--plan=3, but 2 ranks were started' silent ranks 2 --context 4 --plan=3
}
