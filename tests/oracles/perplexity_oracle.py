#!/usr/bin/env python3
"""perplexity_oracle.py - evaluate's perplexity and kl against transformers, --rolling against lm-evaluation-harness 0.4.13's
own functions; all in float32. TAP.

stories260K runs on a text made up here. SMOLLM2 (a GGUF file or a directory) and TASKS (a directory with wiki.test.raw,
WikiText-2's test split) add the real thing; SMOLLM2_HF may name its dense float32 copy, which is made otherwise."""
import json
import math
import os
import subprocess
import tempfile

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

from shared.tap import BIN, check, finish

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K")
SMOLLM2, TASKS = os.environ.get("SMOLLM2"), os.environ.get("TASKS")
CLOSE = 1e-5                                    # relative, of means over hundreds of tokens
os.environ["HF_HUB_OFFLINE"] = "1"
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

STORY = """ 
 = The Dog = 
 
 Once upon a time , there was a little girl named Lily ( she was 3 ) . She had 1 @,@ 000 " red " toys and a half @-@ eaten
 cake . 
 
 = = At home = = 
 
 Her mom said , ' do not be sad ' ; she said : yes ! Really ? It was 2 @.@ 5 N big [ a lot ] . Lily 's dogs ' ball { blue }
 was lost in the park . It was 20 \u00b0 hot .
 
 = The Cat = 
 
 The cat sat on the mat . It saw a bird . The bird flew away , and the cat was sad . 
"""


def close(what, ours, theirs, bound=CLOSE):
    error = abs(ours - theirs) / max(abs(theirs), 1e-30)
    print(f"# {what}: {ours:.9g}, expected {theirs:.9g}, relative error {error:.2g}")
    check(error <= bound, what)


def evaluate(*arguments):
    done = subprocess.run([os.path.join(BIN, "evaluate"), "-q", *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


class Model:
    def __init__(self, path):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)

    def logs(self, ids):
        """Log-probabilities of what follows ids[:-1]."""
        with torch.no_grad():
            return self.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)


def windows(ids, context, stride):
    """(tokens, how many of the last are scored), as the papers and, with a stride, Hugging Face's guide have them."""
    if stride == context:
        return [(ids[i:i + context], context - 1) for i in range(0, len(ids) - context + 1, context)]
    found, before = [], 0
    for first in range(0, len(ids), stride):
        last = min(first + context, len(ids))
        found.append((ids[first:last], min(last - before, last - first - 1)))
        before = last
        if last == len(ids):
            return found


def check_perplexity(name, path, model, text, context, stride, limit, rows=False):
    with open(text, newline="\n") as file:
        content = file.read()
    if rows:
        content = "\n\n".join(row if row.strip() else "" for row in content.splitlines(keepends=True))
    ids = model.tokenizer(content).input_ids[:limit]
    sums, tokens = [], 0
    for window, scored in windows(ids, context, stride):
        log = model.logs(window)
        targets = torch.tensor(window[1:])[:, None]
        sums.append(-log.gather(1, targets)[len(log) - scored:].sum().item())
        tokens += scored
    ours = evaluate("perplexity", path, text, "--context", str(context), "--stride", str(stride), "--limit-tokens", str(limit),
                    *["--hf-rows"] * rows)
    what = f"{name}: windows of {context}, one every {stride}{', as rows' if rows else ''}"
    check((ours["tokens"], ours["windows"]) == (tokens, len(sums)), f"{what}: tokens and windows")
    close(f"{what}: perplexity", ours["perplexity"], math.exp(sum(sums) / tokens))
    if stride == context and len(sums) > 1:
        means = torch.tensor(sums, dtype=torch.float64) / (context - 1)
        close(f"{what}: standard error", ours["standard_error"], (means.std() / math.sqrt(len(means))).item(), 1e-3)


def check_kl(name, path, other, text, context, limit):
    """path is the reference in both, other what has become of it."""
    p, q = Model(path), Model(other)
    with open(text, newline="\n") as file:
        ids = p.tokenizer(file.read()).input_ids[:limit]
    divergences, agreed, deltas = [], 0, []
    for window, _ in windows(ids, context, context):
        before, after = p.logs(window), q.logs(window)
        divergences.append((before.exp() * (before - after)).sum(-1))
        agreed += (before.argmax(-1) == after.argmax(-1)).sum().item()
        targets = torch.tensor(window[1:])[:, None]
        deltas.append((before.gather(1, targets) - after.gather(1, targets)).mean())
    divergences, deltas = torch.cat(divergences), torch.stack(deltas)
    ours = evaluate("kl", other, path, text, "--context", str(context), "--limit-tokens", str(limit))
    close(f"{name}: mean KL", ours["kl"], divergences.mean().item(), 1e-4)
    close(f"{name}: 99th percentile", ours["kl_p99"], divergences.quantile(0.99).item(), 1e-3)
    close(f"{name}: largest KL", ours["kl_max"], divergences.max().item(), 1e-3)
    check(abs(ours["agreement"] - agreed / len(divergences)) <= 1 / len(divergences), f"{name}: agreement")
    close(f"{name}: ratio of perplexities", ours["perplexity_ratio"], deltas.mean().exp().item())
    close(f"{name}: its standard error", ours["perplexity_ratio_standard_error"],
          (deltas.std() / math.sqrt(len(deltas)) * deltas.mean().exp()).item(), 1e-3)


def pages(path):
    """EleutherAI/wikitext_document_level's documents of the raw file, in the order of its loading script."""
    found, page = [], []
    with open(path) as file:
        for line in file.read().split("\n"):
            short = line.replace("= = =", "===").replace("= =", "==").strip()
            if short.startswith("= ") and short.endswith(" ="):
                if "\n".join(page).strip():
                    found.append("\n".join(page))
                page = []
            page.append(line)
    return found + ["\n".join(page)]


def check_rolling(name, path, model, text, limit):
    documents = [{"page": page} for page in pages(text)[:limit]]
    lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1)
    requests = [Instance("loglikelihood_rolling", d, (wikitext_detokenizer(d),), i) for i, d in enumerate(documents)]
    results = [process_results(d, (r,)) for d, r in zip(documents, lm.loglikelihood_rolling(requests, disable_tqdm=True))]
    ours = evaluate("perplexity", "--rolling", path, text, "--limit", str(limit))

    def mean(metric):
        return -sum(r[metric][0] for r in results) / sum(r[metric][1] for r in results)
    check(ours["documents"] == len(documents), f"{name}: {len(documents)} documents")
    check(ours["words"] == sum(r["word_perplexity"][1] for r in results), f"{name}: words of the original pages")
    close(f"{name}: word perplexity", ours["word_perplexity"], math.exp(mean("word_perplexity")), 1e-4)
    close(f"{name}: byte perplexity", ours["byte_perplexity"], math.exp(mean("byte_perplexity")))
    close(f"{name}: bits per byte", ours["bits_per_byte"], mean("bits_per_byte") / math.log(2))


def check_stories(directory):
    text, packed = os.path.join(directory, "story.raw"), os.path.join(directory, "packed")
    with open(text, "w", newline="\n") as file:
        file.write(STORY)
    model = Model(STORIES)
    check_perplexity("stories260K", STORIES, model, text, 64, 64, 100000)
    check_perplexity("stories260K", STORIES, model, text, 64, 64, 100000, rows=True)
    check_perplexity("stories260K", STORIES, model, text, 64, 24, 100000)
    subprocess.run(f"'{BIN}/quantize' -q --bits 4 '{STORIES}' | '{BIN}/assemble' -q --dense --dtype f32 -o '{packed}'",
                   shell=True, check=True)
    check_kl("stories260K in 4 bits", STORIES, packed, text, 64, 100000)
    with open(text, "w", newline="\n") as file:        # the first page takes several windows
        file.write(STORY.replace("Her mom said", "Her mom said" + " , and she said it again" * 150))
    check_rolling("stories260K, rolling", STORIES, model, text, 5)


def check_smollm2(directory):
    if not SMOLLM2 or not TASKS:
        return check(True, "SmolLM2 on WikiText-2", "SMOLLM2 and TASKS aren't set")
    text = os.path.join(TASKS, "wiki.test.raw")
    dense = os.environ.get("SMOLLM2_HF") or os.path.join(directory, "dense")
    cut = os.path.join(directory, "cut")
    if not os.path.isdir(dense):
        subprocess.run([f"{BIN}/assemble", "-q", SMOLLM2, "--dense", "--dtype", "f32", "-o", dense], check=True)
    model = Model(dense)
    # transformers takes a GGUF's tokenizer from the copy, so both sides have the same.
    check_perplexity("SmolLM2", SMOLLM2, model, text, 1024, 1024, 12 * 1024)
    check_perplexity("SmolLM2", SMOLLM2, model, text, 512, 256, 2048, rows=True)
    check_rolling("SmolLM2, rolling", SMOLLM2, model, text, 3)
    subprocess.run(f"'{BIN}/quantize' -q --bits 3 '{dense}' | '{BIN}/assemble' -q --dense --dtype f32 -o '{cut}'", shell=True,
                   check=True)
    check_kl("SmolLM2 in 3 bits", dense, cut, text, 512, 2048)


def main():
    with tempfile.TemporaryDirectory() as directory:
        check_stories(directory)
        check_smollm2(directory)
    finish()


if __name__ == "__main__":
    main()
