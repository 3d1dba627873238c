#!/usr/bin/env python3
"""tasks_oracle.py - the benchmarks of evaluate against lm-evaluation-harness 0.4.13 (HF back end, float32): equal
prompts, log-likelihoods within 1e-3, the same verdict on every document unless two choices are as good as equal. TAP.

stories260K runs on the made-up documents of tests/cli/data in their official forms. SMOLLM2 (a GGUF file or a
directory) and TASKS (a directory with hellaswag_val.jsonl, boolq_dev.jsonl, mmlu/, triviaqa_open_test.jsonl,
gsm8k_test.jsonl, ...) add the real thing; LIMIT caps the number of documents. What lm-eval found is kept in
B/oracles/tasks, so that later runs only run ours; `--reference` makes that and no more. Other words are names of cases
to run. The tasks are lm-eval's own YAML files; what is replaced is the dataset, and for documents in another form than
the dataset's the templates that name its fields."""
import csv
import hashlib
import json
import os
import subprocess
import sys
import time

from shared.tap import BIN, check, finish

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEEP = os.path.join(os.path.abspath(os.environ.get("B", os.path.join(ROOT, "build"))), "oracles", "tasks")
SMOLLM2, TASKS = os.environ.get("SMOLLM2"), os.environ.get("TASKS")
LIMIT = int(os.environ.get("LIMIT", "1000000"))
FIXTURES = os.path.join(ROOT, "tests", "cli", "data")
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K")
NEAR = 2e-3                                     # scores that differ by less may come out in either order
CLOSE = 1e-3                                    # log-likelihoods
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=os.path.join(KEEP, "datasets"), TOKENIZERS_PARALLELISM="false",
                  HF_DATASETS_DISABLE_PROGRESS_BARS="1")
models = {}


def lines(path, first=0, last=None):
    with open(path) as file:
        return [json.loads(line) for line in file][first:last]


# Documents, as lm-eval's dataset has them.

def official_hellaswag(path):
    return lines(path), {}


def local_hellaswag(path):
    return lines(path), {"process_docs": None, "doc_to_text": "{{ctx}}", "doc_to_choice": "endings"}


def official_boolq(path):
    return [{"passage": f"{d['title']} -- {d['passage']}", "question": d["question"], "label": int(d["answer"])}
            for d in lines(path)], {}


def superglue_boolq(path):
    return [{**d, "label": int(d["label"])} for d in lines(path)], {}


def local_boolq(path):
    return [{"passage": d["passage"], "question": d["question"], "label": int(d["answer"])} for d in lines(path)], {}


def official_triviaqa(path):
    with open(path) as file:
        return [{"question": d["Question"].strip(), "answer": {"aliases": d["Answer"]["Aliases"]}}
                for d in json.load(file)["Data"]], {}


def local_triviaqa(path):
    return [{"question": d["question"], "answer": {"aliases": d["answers"]}} for d in lines(path)], {}


def official_gsm8k(path):
    return lines(path), {}


def official_mmlu(path):
    with open(path, newline="") as file:
        return [{"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])}
                for row in csv.reader(file)], {}


# lm-eval's side.

YAML = {"hellaswag": "hellaswag/hellaswag.yaml", "boolq": "super_glue/boolq/default.yaml",
        "triviaqa": "triviaqa/default.yaml", "gsm8k": "gsm8k/gsm8k.yaml"}


def write_task(place, name, yaml, documents, train, changes):
    """A task YAML that includes lm-eval's and says where the documents are."""
    import yaml as parser
    import lm_eval
    tasks = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")
    with open(os.path.join(tasks, yaml)) as file:
        splits = parser.load(file.read().replace("!function ", ""), parser.BaseLoader)
    if yaml.startswith("mmlu"):
        splits |= {"test_split": "test", "fewshot_split": "dev"}
    used = splits.get("test_split")
    used = splits["validation_split"] if used in (None, "null") else used
    files = {}
    for split, content in ((used, documents), (splits.get("fewshot_split") or splits.get("training_split"), train)):
        files[split] = os.path.join(place, f"{name}-{split}.json")
        with open(files[split], "w") as file:
            file.writelines(json.dumps(document) + "\n" for document in content or documents)
    config = {"include": os.path.join(tasks, yaml), "task": name, "tag": None, "dataset_path": "json",
              "dataset_name": None, "dataset_kwargs": {"data_files": files}, **changes}
    with open(os.path.join(place, name + ".yaml"), "w") as file:
        parser.safe_dump(config, file)


def write_tasks(place, case):
    """The case's tasks; their names in order."""
    train = case["train"] and case["read"](case["train"])[0]
    if case["task"] != "mmlu":
        documents, changes = case["read"](case["data"])
        write_task(place, "the_task", YAML[case["task"]], documents[:case["limit"]], train, changes)
        return ["the_task"]
    names = []
    for file in sorted(os.listdir(os.path.join(case["data"], "test"))):
        subject = file[:-len("_test.csv")]
        documents = official_mmlu(os.path.join(case["data"], "test", file))[0][:case["limit"]]
        shots = official_mmlu(os.path.join(case["data"], "dev", f"{subject}_dev.csv"))[0]
        write_task(place, f"the_task_{subject}", f"mmlu/default/mmlu_{subject}.yaml", documents, shots, {})
        names.append(f"the_task_{subject}")
    return names


def model_of(path):
    if path not in models:
        from lm_eval.models.huggingface import HFLM
        models[path] = HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=case_batch)
    return models[path]


case_batch = 4


def ask(case):
    """lm-eval's samples of the case: [{prompt, scores or text, verdicts}], and its results."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    place = os.path.join(KEEP, case["key"])
    os.makedirs(place, exist_ok=True)
    names = write_tasks(place, case)
    started = time.time()
    result = lm_eval.simple_evaluate(
        model=model_of(case["hf"]), tasks=names, num_fewshot=case["shots"], limit=None, log_samples=True,
        apply_chat_template=case["chat"], bootstrap_iters=2,
        task_manager=TaskManager(include_path=place, include_defaults=False))
    seconds = time.time() - started
    found = []
    for name in names:
        filters = {}
        for sample in result["samples"][name]:
            filters.setdefault(sample["doc_id"], []).append(sample)
        for _, samples in sorted(filters.items()):
            found.append(digest(samples))
    return {"documents": found, "results": [result["results"][name] for name in names], "seconds": seconds}


def digest(samples):
    arguments = samples[0]["arguments"]
    first = arguments[0] if isinstance(arguments, (list, tuple)) else arguments["gen_args_0"]
    prompt = first[0] if isinstance(first, (list, tuple)) else first["arg_0"]
    out = {"prompt": prompt}
    if "acc" in samples[0]:
        out["scores"] = [float(pair[0]) for pair in samples[0]["filtered_resps"]]
        out["verdicts"] = {k: samples[0][k] for k in ("acc", "acc_norm") if k in samples[0]}
    else:
        out["text"] = samples[0]["resps"][0][0]
        out["verdicts"] = {s["filter"]: float(s["exact_match"]) for s in samples}
        out["filtered"] = {s["filter"]: s["filtered_resps"][0] if isinstance(s["filtered_resps"], list)
                           else s["filtered_resps"] for s in samples}
    return out


def reference(case):
    """What lm-eval says, kept on disk."""
    description = json.dumps({k: case[k] for k in ("task", "data", "train", "shots", "limit", "chat", "hf")}
                             | {"read": case["read"].__name__, "version": 2})
    case["key"] = case["what"].replace(" ", "-") + "-" + hashlib.sha256(description.encode()).hexdigest()[:16]
    path = os.path.join(KEEP, case["key"] + ".json")
    if not os.path.exists(path):
        os.makedirs(KEEP, exist_ok=True)
        found = ask(case)
        with open(path + ".part", "w") as file:
            json.dump(found, file)
        os.rename(path + ".part", path)
    with open(path) as file:
        return json.load(file)


# Ours, and the comparison.

def metric_name(name):
    """Ours of a verdict, where lm-eval has several filters of one metric."""
    return {"remove_whitespace": "exact_match"}.get(name, name if name.startswith("acc") else f"exact_match,{name}")


def ours(case):
    samples = os.path.join(KEEP, case["key"] + ".ours.jsonl")
    command = [os.path.join(BIN, "evaluate"), "-q", case["task"], case["model"], case["data"],
               "--shots", str(case["shots"]), "--limit", str(case["limit"]), "--samples", samples]
    command += ["--train", case["train"]] if case["train"] else []
    command += ["--chat"] if case["chat"] else []
    started = time.time()
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report, lines(samples), time.time() - started


def same_verdicts(one, other, where):
    """Equal verdicts; where two scores are as good as equal, that is said and counts."""
    theirs, mine = {metric_name(k): v for k, v in one["verdicts"].items()}, other["verdicts"]
    if all(float(theirs[k]) == float(mine[k]) for k in theirs):
        return True
    if "scores" in one:
        lengths = [len(choice["text"]) for choice in other["choices"]]
        for metric in (k for k in theirs if float(theirs[k]) != float(mine[k])):
            scaled = sorted(s / (n if metric == "acc_norm" else 1) for s, n in zip(one["scores"], lengths))
            if scaled[-1] - scaled[-2] > NEAR:
                return False
        print(f"# {where}: near tie {one['scores']}")
        return True
    return False


def compare(case):
    theirs = reference(case)
    report, mine, seconds = ours(case)
    what, documents = case["what"], theirs["documents"]
    check(len(mine) == len(documents) and report["count"] == len(documents) and not report.get("failed"),
          f"{what}: {len(documents)} documents")
    prompts = [i for i, (a, b) in enumerate(zip(documents, mine)) if a["prompt"] != b["prompt"]]
    check(not prompts, f"{what}: prompts")
    for i in prompts[:1]:
        print(f"# document {i}:\n#  lm-eval {documents[i]['prompt']!r}\n#  ours    {mine[i]['prompt']!r}")
    other = [i for i, (a, b) in enumerate(zip(documents, mine)) if not same_verdicts(a, b, f"{what}, document {i}")]
    check(not other, f"{what}: verdicts ({len(other)} differ)")
    for i in other[:3]:
        print(f"# document {i}: lm-eval {json.dumps(documents[i])[-700:]}\n#  ours {json.dumps(mine[i])[-700:]}")
    if "scores" in documents[0]:
        worst = max(abs(a - b["loglikelihood"]) for one, my in zip(documents, mine)
                    for a, b in zip(one["scores"], my["choices"]))
        check(worst <= CLOSE, f"{what}: log-likelihoods (largest difference {worst:.2g})")
    else:
        texts = sum(a["text"] == b["text"] for a, b in zip(documents, mine))
        check(texts == len(documents), f"{what}: texts ({texts} of {len(documents)} equal)")
    check_results(case, theirs, report)
    print(f"# {what}: {len(documents)} documents, lm-eval {theirs['seconds']:.1f} s, evaluate {seconds:.1f} s",
          flush=True)


def check_results(case, theirs, report):
    """Means and standard errors of a task that is no group."""
    if case["task"] == "mmlu":
        subjects = report["subjects"]
        pairs = [(subjects[r["alias"].strip(" -").removeprefix("the_task_")], r) for r in theirs["results"]]
        good = all(abs(mine["acc"]["value"] - r["acc,none"]) < 1e-9 for mine, r in pairs)
        errors = [r["acc_stderr,none"] for r in theirs["results"]]
        if "N/A" not in errors:
            from lm_eval.api.metrics import pooled_sample_stderr
            pooled = pooled_sample_stderr(errors, [r["sample_len"] for r in theirs["results"]])
            good &= abs(report["metrics"]["acc"]["stderr"] - pooled) < 1e-9
    else:
        result, good = theirs["results"][0], True
        for key, value in result.items():
            name, _, filtered = key.partition(",")
            if name in ("acc", "acc_norm", "exact_match", "acc_stderr", "acc_norm_stderr", "exact_match_stderr"):
                metric = name.removesuffix("_stderr")
                metric = metric if filtered in ("none", "remove_whitespace") else f"{metric},{filtered}"
                mine = report["metrics"][metric]["stderr" if name.endswith("_stderr") else "value"]
                good &= value == "N/A" or (mine is not None and abs(mine - value) < 1e-9)
    check(good, f"{case['what']}: results")


def case(what, task, read, model, hf, data, train=None, shots=0, limit=1000000, chat=False):
    return {"what": what, "task": task, "read": read, "model": model, "hf": hf, "data": data, "train": train,
            "shots": shots, "limit": min(limit, LIMIT), "chat": chat}


def stories_cases():
    def at(name):
        return os.path.join(FIXTURES, name)
    both = {"model": STORIES, "hf": STORIES}
    return [
        case("hellaswag official", "hellaswag", official_hellaswag, data=at("hellaswag_val.jsonl"), **both),
        case("hellaswag 2 shots", "hellaswag", official_hellaswag, data=at("hellaswag_val.jsonl"),
             train=at("hellaswag_train.jsonl"), shots=2, **both),
        case("hellaswag truncated", "hellaswag", official_hellaswag, data=at("hellaswag_val.jsonl"),
             train=at("hellaswag_train.jsonl"), shots=5, **both),
        case("boolq official", "boolq", official_boolq, data=at("boolq_dev.jsonl"), train=at("boolq_train.jsonl"),
             shots=1, **both),
        case("boolq superglue", "boolq", superglue_boolq, data=at("boolq_superglue.jsonl"), **both),
        case("triviaqa official", "triviaqa", official_triviaqa, data=at("triviaqa_dev.json"),
             train=at("triviaqa_train.json"), shots=2, **both),
        case("mmlu official", "mmlu", official_mmlu, data=at("mmlu"), shots=2, **both),
        case("gsm8k truncated", "gsm8k", official_gsm8k, data=at("gsm8k_test.jsonl"), train=at("gsm8k_train.jsonl"),
             shots=5, **both),
    ]


def smollm2_cases():
    def at(name):
        return os.path.join(TASKS, name)
    hf = os.environ.get("SMOLLM2_HF") or os.path.join(KEEP, "smollm2")
    if not os.path.exists(os.path.join(hf, "config.json")):
        subprocess.run([os.path.join(BIN, "assemble"), "-q", SMOLLM2, "--dense", "--dtype", "f32", "-o", hf],
                       check=True)
    both = {"model": SMOLLM2, "hf": hf}
    split = os.path.join(KEEP, "hellaswag_train.jsonl")
    with open(split, "w") as file:
        file.writelines(json.dumps(document) + "\n" for document in lines(at("hellaswag_val.jsonl"), -3000))
    gsm8k = {"data": at("gsm8k_test.jsonl"), "train": at("gsm8k_train.jsonl")}
    return [
        case("hellaswag", "hellaswag", local_hellaswag, data=at("hellaswag_val.jsonl"), limit=200, **both),
        case("boolq", "boolq", local_boolq, data=at("boolq_dev.jsonl"), limit=200, **both),
        case("mmlu", "mmlu", official_mmlu, data=at("mmlu"), limit=4, **both),
        case("triviaqa 5 shots", "triviaqa", local_triviaqa, data=at("triviaqa_open_test.jsonl"),
             train=at("triviaqa_open_dev.jsonl"), shots=5, limit=40, **both),
        case("hellaswag 3 shots", "hellaswag", local_hellaswag, data=at("hellaswag_val.jsonl"), train=split, shots=3,
             limit=40, **both),
        case("mmlu chat 2 shots", "mmlu", official_mmlu, data=at("mmlu"), shots=2, limit=1, chat=True, **both),
        case("gsm8k chat 2 shots", "gsm8k", official_gsm8k, shots=2, limit=8, chat=True, **gsm8k, **both),
        case("mmlu 5 shots", "mmlu", official_mmlu, data=at("mmlu"), shots=5, limit=4, **both),
        case("gsm8k 5 shots", "gsm8k", official_gsm8k, shots=5, limit=40, **gsm8k, **both),
    ]


def main():
    os.makedirs(KEEP, exist_ok=True)
    cases = stories_cases() if os.path.isdir(FIXTURES) else []
    if SMOLLM2 and TASKS:
        cases += smollm2_cases()
    else:
        check(True, "SmolLM2 on real documents", "SMOLLM2 and TASKS aren't set")
    only = [word for word in sys.argv[1:] if word != "--reference"]
    for one in cases:
        if only and one["what"] not in only:
            continue
        if "--reference" in sys.argv[1:]:
            print(f"# {one['what']}: lm-eval {reference(one)['seconds']:.1f} s", flush=True)
        else:
            compare(one)
    finish()


if __name__ == "__main__":
    main()
