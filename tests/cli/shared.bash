# What several files of command-line tests share: `load shared`.

# A member of a report or line: member FILE KEY...
member() {
    "$PYTHON" -c 'import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value[int(key) if isinstance(value, list) else key]
print(json.dumps(value))' "$@"
}

# Exit STATUS with one line that has TEXT in it, and nothing on standard output: refuses STATUS TEXT COMMAND...
refuses() {
    local status=0 expected=$1 text=$2
    shift 2
    "$@" >out 2>err || status=$?
    echo "$*: exit $status: $(cat err)"
    [ "$status" -eq "$expected" ]
    [ "$(wc -l <err)" -eq 1 ]
    grep -qF -- "$text" err
    [ ! -s out ]
}

# In this directory: `model`, the tiny one; `text` of its own; `moments` of what its layers see over that.
model_with_moments() {
    ln -s "$TOP/pipelines/models/stories260K" model
    for seed in 1 2 3 4 5 6 7 8; do
        generate model -q -p 'Once upon a time' --temperature 1 --seed $seed || exit 1
        echo
    done >text
    calibrate -q model text --context 256 --sequences 8 -o moments || exit 1
}

# For setup_file: a folder FAMILY with what tests/tools/heal_models.sh FAMILY LOSS [TOP] makes, to work in.
heal_models() {
    mkdir "$BATS_FILE_TMPDIR/$1"
    cd "$BATS_FILE_TMPDIR/$1" || exit 1
    bash "$TOP/tests/tools/heal_models.sh" "$@"
}

# Of logs of `heal`: the losses against numbers, or those of another log: the worst relative difference at most BOUND.
# losses BOUND LOG NUMBERS|LOG
losses() {
    "$PYTHON" -c 'import json, os, sys
def read(log):
    return [json.loads(line)["loss"] for line in open(log)]
bound, log, other = float(sys.argv[1]), read(sys.argv[2]), sys.argv[3]
expected = read(other) if os.path.exists(other) else [float(x) for x in other.split()]
worst = max(abs(a / b - 1) for a, b in zip(log, expected))
print(f"{len(log)} losses off by {worst}")
assert len(log) == len(expected) and worst <= bound' "$@"
}

log_losses() {
    "$PYTHON" -c 'import json, sys; print(*(json.loads(line)["loss"] for line in open(sys.argv[1])))' "$1"
}

# Skips what follows where PROGRAM has the address sanitizer, which takes terabytes of address space.
limits_space() {
    ! grep -q __asan_init "$(command -v "$1")" || skip 'address space cannot be limited under the sanitizers'
}

lines_of() {
    if [ -e "$1" ]; then wc -l <"$1"; else echo 0; fi
}

# Kills HEAL... --work work -o out.tns at random moments and starts it anew, until it is done or was killed 60 times; then it
# may finish. A moment is a number of steps, or right at the start: by the clock fast machines would be done before it. What
# there is in between: no out.tns, or what whole.tns is, and three checkpoints at most. $killed counts.
killed_and_resumed() {
    local pid moment
    RANDOM=7
    killed=0
    for _ in {1..60}; do
        moment=$(($(lines_of work/log) + RANDOM % 24 - 4))
        "$@" --work work -o out.tns 2>said 3>&- &
        pid=$!
        while kill -0 $pid 2>kill.said && [ "$(lines_of work/log)" -lt "$moment" ]; do
            sleep 0.005
        done
        kill -KILL $pid 2>kill.said || true
        if wait $pid 2>wait.said; then
            return
        fi
        killed=$((killed + 1))
        [ ! -e out.tns ] || cmp whole.tns out.tns
        [ "$(find work -name 'checkpoint-*' | wc -l)" -le 3 ]
    done
    "$@" --work work -o out.tns
}
