#!/usr/bin/env python3
"""tokenizer.py - tokens per second of tokenize against the Python package tokenizers on one thread: medians of 5, in
turn, of processor time, which other programs beside disturb less than the clock's.

DATA names a directory with wiki.test.raw, TOKENIZER a tokenizer.json (SmolLM2's); without them a text made here and
stories260K's alone. Whole text and line by line. Starting and opening are taken off both: tokenize is timed on the text
and on an empty one."""
import os
import resource
import statistics
import subprocess

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    from tokenizers import Tokenizer
except ImportError:
    Tokenizer = None

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BIN", os.path.join(ROOT, "bin"))
TMP = os.environ.get("TMPDIR", "/tmp")
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K", "tokenizer.json")
RUNS = 5


def used():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def seconds(work):
    start = used()
    work()
    return used() - start


def ours(path, text, *options):
    command = [os.path.join(BIN, "tokenize"), "--count", *options, path, text]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def compare(name, path, file, text):
    tokenizer = Tokenizer.from_file(path)
    empty = os.path.join(TMP, "empty")
    open(empty, "w").close()
    for what, options, texts in (("whole", [], [text]), ("lines", ["--lines"], text.split("\n"))):
        count = sum(len(tokenizer.encode(one).ids) for one in texts)
        mine, start, theirs = [], [], []
        for _ in range(RUNS):
            start.append(seconds(lambda: ours(path, empty, *options)))
            mine.append(seconds(lambda: ours(path, file, *options)))
            theirs.append(seconds(lambda: [tokenizer.encode(one) for one in texts]))
        open_ours, open_theirs = statistics.median(start), seconds(lambda: Tokenizer.from_file(path))
        one, other = statistics.median(mine) - open_ours, statistics.median(theirs)
        print(f"tokenize {name}, {what}: {count / one / 1e6:.2f} M tokens/s, tokenizers {count / other / 1e6:.2f}, "
              f"ratio {other / one:.1f} (wanted: 1 at least); opening {open_ours * 1e3:.0f} ms, "
              f"tokenizers {open_theirs * 1e3:.0f}")


def main():
    if not Tokenizer:
        print("tokenize: no package tokenizers to compare with (make check-oracles installs it)")
        return
    data = os.environ.get("DATA")
    file = os.path.join(data, "wiki.test.raw") if data else os.path.join(TMP, "text")
    if not data:
        source = open(os.path.join(ROOT, "README.md"), encoding="utf-8").read()
        with open(file, "w", encoding="utf-8") as out:
            out.write(source * 150)
    text = open(file, encoding="utf-8", newline="").read()
    compare("stories260K", STORIES, file, text)
    if os.environ.get("TOKENIZER"):
        compare("TOKENIZER", os.environ["TOKENIZER"], file, text)


main()
