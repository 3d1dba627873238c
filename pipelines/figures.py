"""figures - what the scripts of the graphs share: asking programs, reading cores, writing files."""
import json
import os
import subprocess
import sys


def ask(*command, good=(0,)):
    """The JSON that a program prints; its own words on stderr where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode not in good:
        sys.exit(done.returncode if done.returncode > 0 else 70)
    return json.loads(done.stdout)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_whole(path, text):
    """The file appears whole or not at all."""
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)


def terms(tensor):
    """The types of a tensor's cores, term by term, from `q3-64-min 1x576x64x1 + f16 1x576x1x8 f16 8x1x64x1`."""
    return [term.split()[::2] for term in tensor["cores"].split(" + ")]


def core_types(tensor):
    return [kind for term in terms(tensor) for kind in term]


def is_cut(tensor):
    """Whether nothing of it is a whole matrix any more."""
    return all(len(term) > 1 for term in terms(tensor))


def is_matrix_svd(tensor):
    """Whether the cores are a plain low-rank product: all rows in the first, all columns in the second."""
    words = tensor["cores"].split()
    if len(words) != 4:
        return False
    first, second = ([int(n) for n in word.split("x")] for word in words[1::2])
    return first[2] == 1 and second[1] == 1


def quietly_to_a_closed_pipe(work):
    """Runs work; `make ... | head` is no error."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def columns(rows, left=1):
    """Rows of cells as lines: the first `left` cells to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) if i >= left else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        yield "  ".join(cells).rstrip()
