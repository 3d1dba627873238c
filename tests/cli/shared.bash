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
