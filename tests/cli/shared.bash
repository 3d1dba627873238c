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
