#!/usr/bin/env python3
"""Steps of distillation shared by ranks, SmolLM2 at half its parameters in low rank, batches of 8 x 256 tokens, dense teacher,
f32: 2 ranks of 1 thread, with whole and with shared moments, against 1 rank of 1 thread.

    ranks.py [--steps N] [--turns N] [--memory SIZE]

SMOLLM2 names the model (a GGUF file or a directory). They take turns; medians of tokens per second over steps behind the
first, the seconds of messages and those of them that were waited for, and what --plan expected of one process by itself.
Skipped where mpirun or the model isn't there.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from shared.halved import BATCH, BIN, CONTEXT, MODEL, prepare

LAUNCH = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
if not MODEL:
    sys.exit(print("ranks.py: SMOLLM2 names no model, nothing compared"))
if not shutil.which("mpirun"):
    sys.exit(print("ranks.py: no mpirun, nothing compared"))


def heal(launch, options):
    command = [*launch, f"{BIN}/heal", "cut.tns", "text", "--teacher", "dense", "--batch", str(BATCH), "--context", str(CONTEXT),
               "--threads", "1", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def steps(launch, options, count):
    """Seconds of each step but the first, and of messages: all, waited for."""
    said = heal(launch, ["-v", "--steps", str(count + 1), "--log", "log", "--work", "work", "-o", "out.tns", *options]).stderr
    with open("log", encoding="utf-8") as file:
        seconds = [json.loads(line)["seconds"] for line in file]
    messages = [tuple(map(float, found)) for found in re.findall(r"([0-9.]+) s of messages, of which ([0-9.]+) s", said)]
    return [b - a for a, b in zip(seconds, seconds[1:])], messages[1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--memory", default="2G")
    args = parser.parse_args()
    model, memory = os.path.abspath(MODEL), ["--memory", args.memory]
    ways = {"1 rank": ([], memory), "2 ranks": (LAUNCH, memory), "2 ranks, --shard": (LAUNCH, [*memory, "--shard"])}
    passed, messages = {way: [] for way in ways}, {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        prepare(model)
        for _ in range(args.turns):
            for way, (launch, options) in ways.items():
                seconds, sent = steps(launch, options, args.steps)
                passed[way] += seconds
                messages[way] += sent
        plan = heal([], [*memory, "--plan=2"]).stdout
        os.chdir("/")
    one = statistics.median(passed["1 rank"])
    for way, seconds in passed.items():
        step = statistics.median(seconds)
        print(f"{way}: {step:.3f} s a step, {BATCH * CONTEXT / step:.0f} tokens/s, ratio {one / step:.2f}", end="")
        if messages[way]:
            busy, waited = (statistics.median(column) for column in zip(*messages[way]))
            print(f" (wanted: 1.80 at least); {busy:.3f} s of messages, {waited:.3f} s waited for", end="")
        print()
    print("planned for 2 ranks by 1:", re.search("step: (.*) expected", plan).group(1))


if __name__ == "__main__":
    main()
