#!/usr/bin/env python3
"""Prompts of 512 tokens through SmolLM2 in f32: ours against transformers on torch, the same number of threads.

    prompt.py [--runs N] [--tokens N] [--threads N]

SMOLLM2 names the model (a GGUF file or a directory). Both keep the model in memory, compute the logits of all positions,
and take turns; medians. Skipped where torch, transformers or the model isn't there.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

MODEL = os.environ.get("SMOLLM2")
BENCH = os.path.join(os.environ.get("B", "build"), "tests", "bench", "bench_prompt")
BIN = os.environ.get("BIN", "bin")
os.environ["HF_HUB_OFFLINE"] = "1"
if not MODEL:
    sys.exit(print("prompt.py: SMOLLM2 names no model, nothing compared"))
try:
    import torch
    import transformers
except ImportError:
    sys.exit(print("prompt.py: torch or transformers isn't installed, nothing compared"))


def ours(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def theirs(model, ids):
    start = time.perf_counter()
    with torch.no_grad():
        logits = model(ids).logits
    took = time.perf_counter() - start
    assert logits.shape[1] == ids.shape[1]
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "dense")
        subprocess.run([os.path.join(BIN, "assemble"), "-q", "--dense", "--dtype", "f32", "-o", path, MODEL],
                       check=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        ids = torch.tensor([[i * 7919 % model.config.vocab_size for i in range(args.tokens)]])
        process = subprocess.Popen([BENCH, path, str(args.tokens)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   text=True, env={**os.environ, "THREADS": str(args.threads)})
        took = {"ours": [], "theirs": []}
        for run in range(args.runs + 1):
            for who, step in (("ours", lambda: ours(process)), ("theirs", lambda: theirs(model, ids))):
                time.sleep(0.3)          # threads that still wait for work go to sleep
                seconds = step()
                if run:                  # the first one warms up
                    took[who].append(seconds)
        process.stdin.close()
        process.wait()
    median = {who: statistics.median(times) for who, times in took.items()}
    print(f"prompt: SmolLM2 f32, {args.tokens} tokens, logits of all positions, {args.threads} threads, "
          f"medians of {args.runs}")
    peer = f"transformers {transformers.__version__}, torch {torch.__version__}"
    for who, name in (("ours", "ours"), ("theirs", peer)):
        spread, speed = max(took[who]) / min(took[who]), args.tokens / median[who]
        print(f"  {name:40s} {median[who]:.3f} s  {speed:7.0f} tokens/s  (slowest/fastest {spread:.2f})")
    print(f"  ratio of speeds: {median['theirs'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
