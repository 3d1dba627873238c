# The benchmarks of evaluate, on made-up documents in each form that their files come in.

bats_require_minimum_version 1.5.0

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    model=$TOP/pipelines/models/stories260K
    data=$TOP/tests/cli/data
}

ask() { # PROGRAM: a Python expression over the report r and the samples s
    "$PYTHON" -c '
import json, sys
r = json.load(open("report"))
try:
    s = [json.loads(line) for line in open("samples")]
except FileNotFoundError:
    s = []
print(eval(sys.argv[1]))' "$1"
}

measure() { # TASK DATA OPTION...
    evaluate -q "$1" "$model" "$2" "${@:3}" --samples samples >report
}

@test "a directory holds all tasks, and each report has metric, standard error and count" {
    measure hellaswag "$data"
    [ "$(ask 'r["count"], len(s), r["shots"], sorted(r["metrics"]), r["failed"]')" = \
        "(5, 5, 0, ['acc', 'acc_norm'], [])" ]
    [ "$(ask 'sorted(r["metrics"]["acc"])')" = "['stderr', 'value']" ]
    measure boolq "$data"
    [ "$(ask 'r["count"], list(r["metrics"])')" = "(4, ['acc'])" ]
    measure triviaqa "$data"
    [ "$(ask 'r["count"], list(r["metrics"])')" = "(3, ['exact_match'])" ]
    measure gsm8k "$data"
    [ "$(ask 'r["count"], r["shots"], list(r["metrics"])')" = \
        "(2, 5, ['exact_match,strict-match', 'exact_match,flexible-extract'])" ]
}

@test "mmlu: subjects, categories, examples from dev/" {
    measure mmlu "$data" --shots 2
    [ "$(ask 'r["count"], {k: v["count"] for k, v in r["subjects"].items()}')" = \
        "(5, {'college_biology': 3, 'formal_logic': 2})" ]
    [ "$(ask 'r["categories"]["stem"] == r["subjects"]["college_biology"]["acc"]')" = True ]
    [ "$(ask 'r["categories"]["other"]["value"]')" = None ]
    [ "$(ask 's[3]["subject"], s[3]["document"]')" = "('formal_logic', 0)" ]
    [ "$(ask 's[3]["prompt"].split("\n")[0]')" = \
        "The following are multiple choice questions (with answers) about formal logic." ]
    [ "$(ask 's[3]["prompt"].count("Answer: ")')" = 2 ]
    evaluate -q mmlu "$model" "$data/mmlu/test/formal_logic_test.csv" --limit 1 >report
    [ "$(ask 'r["count"], r["limit"], r["metrics"]["acc"]["stderr"]')" = "(1, 1, None)" ]
}

@test "prompts have examples, description and question where lm-evaluation-harness has them" {
    measure gsm8k "$data/gsm8k_test.jsonl" --shots 2 --limit 1
    [ "$(ask 's[0]["prompt"].count("\n\nQuestion: ")')" = 2 ]
    [ "$(ask 's[0]["prompt"].endswith("How many apples has he?\nAnswer:")')" = True ]
    measure hellaswag "$data/hellaswag_val.jsonl"
    [ "$(ask 's[1]["prompt"][-69:]')" = "Dig a hole. Take a spade and dig.. put the tree in. hold it straight." ]
    measure boolq "$data/boolq_dev.jsonl"
    [ "$(ask 's[0]["prompt"][:11]')" = "Tomato -- A" ]
    [ "$(ask 's[0]["prompt"][-39:]')" = $'\nQuestion: is a tomato a fruit?\nAnswer:' ]
}

@test "the same documents in another form give the same scores" {
    measure boolq "$data/boolq_dev.jsonl"
    mv samples official
    measure boolq "$data/boolq_superglue.jsonl"
    cmp samples official
    measure boolq "$data/boolq_local.jsonl" --limit 2
    [ "$(ask 's[0]["prompt"].startswith("A tomato")')" = True ]
    measure triviaqa "$data/triviaqa_local.jsonl" --limit 1
    mv samples lines
    measure triviaqa "$data/triviaqa_context.jsonl"
    [ "$(ask 's[0]["prompt"] + "?"')" = $'Question: Which animal says meow?\nAnswer:?' ]
}

@test "results don't depend on threads, and texts not on how many are generated side by side" {
    measure hellaswag "$data" --threads 1
    mv samples one
    measure hellaswag "$data" --threads 3
    cmp samples one
    measure triviaqa "$data" --shots 2 --batch 1
    mv samples one
    measure triviaqa "$data" --shots 2 --batch 3
    cmp samples one
    measure hellaswag "$data" --memory 0
    [ "$(ask 'r["count"]')" = 5 ]
}

@test "a model from a pipe is measured as the one on disk" {
    measure boolq "$data"
    mv samples disk
    extract-layer "$model" | evaluate -q boolq - "$data" --samples samples >report
    cmp samples disk
}

@test "--chat makes turns of description, examples and question" {
    measure mmlu "$data" --shots 1 --limit 1 --chat --template chatml
    [ "$(ask 'r["chat"]')" = chatml ]
    [ "$(ask 's[0]["prompt"].startswith("<|im_start|>system\nThe following are")')" = True ]
    [ "$(ask 's[0]["prompt"].count("<|im_start|>user")')" = 2 ]
    [ "$(ask 's[0]["prompt"].count("<|im_start|>assistant\nA<|im_end|>")')" = 1 ]
    run -69 evaluate -q mmlu "$model" "$data" --chat
    [[ $output == *--template* ]]
}

@test "a document that fails is told and not counted" {
    head -n 1 "$data/hellaswag_val.jsonl" >two.jsonl
    "$PYTHON" -c 'print("{\"ctx\": \"a\", \"label\": 1, \"endings\": [\"" + "b " * 2000 + "\", \"c\"]}")' >>two.jsonl
    evaluate hellaswag "$model" two.jsonl --samples samples >report 2>errors
    [ "$(ask 'r["count"], [f["document"] for f in r["failed"]]')" = "(1, [1])" ]
    [ "$(ask 's[1]["verdicts"], bool(s[1]["failed"])')" = "({}, True)" ]
    grep -q '1 of 2 documents failed' errors
    tail -n 1 two.jsonl >one.jsonl
    rm samples
    run -65 evaluate -q hellaswag "$model" one.jsonl --samples samples
    [ ! -e samples ]
}

@test "bad documents, absent ones, and examples that aren't there" {
    echo '{"question": "a"}' >bad.jsonl
    run -65 evaluate gsm8k "$model" bad.jsonl --shots 0
    [[ $output == *bad.jsonl*"line 1"*answer* ]]
    run -66 evaluate gsm8k "$model" nowhere
    run -66 evaluate gsm8k "$model" .
    [[ $output == *gsm8k_test.jsonl* ]]
    cp "$data/boolq_dev.jsonl" .
    run -66 evaluate boolq "$model" boolq_dev.jsonl --shots 1
    [[ $output == *--train* ]]
    run -65 evaluate boolq "$model" boolq_dev.jsonl --shots 5 --train "$data/boolq_train.jsonl"
    [[ $output == *"5 documents"* ]]
    evaluate -q boolq "$model" boolq_dev.jsonl --shots 4 --limit 1 --train "$data/boolq_train.jsonl" >report
    run -65 evaluate mmlu "$model" "$data" --shots 3
    run -64 evaluate boolq "$model" boolq_dev.jsonl --samples -
    run -73 evaluate boolq "$model" boolq_dev.jsonl --samples nowhere/samples
}
