#!/usr/bin/env python3
"""All of SmolLM2's matrices by error-compensated rounding: quantize --moments, reading and writing included, beside a script in torch
(scales by a grid search on the squared error weighted with the diagonal of H, then columns in blocks of 64 by descending diagonal, each
error spread by the Cholesky factor of the inverse) that has matrices and moments in memory, in turns, on two threads each. --rotate
turns inputs by random signs and Hadamard blocks of 64 first, in both; --residual-chi R adds a whitened low-rank fit of what is left, in
16 bits, four times in turn with the rounding.

    compensate.py [--bits B] [--group N] [--rotate] [--residual-chi R] [--match GLOB] [--moments FILE] [--text FILE] [--runs N]

SMOLLM2 names the model (a GGUF file or a directory). Without moments they are calibrated on the text (default: the README).
Tells medians of seconds, and the ratio of the weighted squared errors for each matrix. Skipped where torch or the model isn't there.
"""
import argparse
import fnmatch
import os
import re
import statistics
import subprocess
import tempfile
import time

from aware import ROOT, THREADS, prepare, torch, weighted, whitened

BLOCK = 64


def scales(x, bits, h):
    """Scale and minimum of groups x [.., group] with weights h: the best of nine ranges about the middle."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    best = None
    for part in (1, .95, .9, .85, .8, .75, .7, .65, .6):
        half = (high - low) / 2 * part
        start, scale = (high + low) / 2 - half, (2 * half / (2 ** bits - 1)).clamp_min(1e-9)
        error = ((((x - start) / scale).round().clamp(0, 2 ** bits - 1) * scale + start - x) ** 2 * h).sum(-1, keepdim=True)
        if best is None:
            best = error, scale, start
        else:
            best = tuple(torch.where(error < best[0], new, old) for new, old in zip((error, scale, start), best))
    return best[1], best[2]


def compensated(w, h, bits, group):
    rows, n = w.shape
    h = h.double() + torch.eye(n, dtype=torch.float64) * h.double().diag().mean() * .01
    diagonal = h.diag().float()
    scale, start = (each.expand(-1, -1, group).reshape(rows, n) for each in
                    scales(w.view(rows, n // group, group), bits, diagonal.view(1, n // group, group)))
    order = torch.argsort(diagonal, descending=True)
    w, scale, start, h = w[:, order].clone(), scale[:, order], start[:, order], h[order][:, order]
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    q = torch.zeros_like(w)
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        errors = torch.zeros(rows, last - first)
        for j in range(first, last):
            code = ((w[:, j] - start[:, j]) / scale[:, j]).round().clamp(0, 2 ** bits - 1)
            q[:, j] = code * scale[:, j] + start[:, j]
            errors[:, j - first] = (w[:, j] - q[:, j]) / u[j, j]
            w[:, j:last] -= errors[:, j - first, None] * u[j, j:last]
        w[:, last:] -= errors @ u[first:last, last:]
    return q[:, torch.argsort(order)]


def hadamard(n):
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / n ** .5


def turned(w, h, arguments):
    """Rounds w after a turn of its input, and turns back."""
    sign = torch.randint(0, 2, (w.shape[1],)).float() * 2 - 1

    def turn(x):
        return ((x * sign).view(len(x), -1, BLOCK) @ hadamard(BLOCK).to(x.dtype)).reshape(x.shape)

    q = compensated(turn(w), turn(turn(h).T.contiguous()).T.contiguous(), arguments.bits, arguments.group)
    return (q.view(len(q), -1, BLOCK) @ hadamard(BLOCK)).reshape(q.shape) * sign


def fit(w, h, arguments):
    rest = torch.zeros_like(w)
    for _ in range(4 if arguments.residual_chi else 1):
        q = turned(w - rest, h, arguments) if arguments.rotate else compensated(w - rest, h, arguments.bits, arguments.group)
        rest = whitened(w - q, h, arguments.residual_chi) if arguments.residual_chi else rest
    return q + rest


def theirs(weights, moments, arguments):
    torch.manual_seed(1)
    start = time.perf_counter()
    rounded = {name: fit(w, moments[name], arguments) for name, w in weights.items()}
    return time.perf_counter() - start, rounded


def ours(stream, moments, arguments, scratch):
    more = ["--rotate"] if arguments.rotate else []
    if arguments.residual_chi:
        more += ["--residual-chi", str(arguments.residual_chi), "--residual-bits", "16"]
    start = time.perf_counter()
    run = subprocess.run(["quantize", "-v", "--match", arguments.match, "--bits", str(arguments.bits), "--group", str(arguments.group),
                          "--zero", "min", *more, "--moments", moments, "--threads", str(THREADS), stream, "-o",
                          os.path.join(scratch, "out.tns")], capture_output=True, text=True, check=True)
    took = time.perf_counter() - start
    return took, {name: float(error) ** 2 for name, error in re.findall(r"'(\S+)': .* weighted ([\d.e-]+)", run.stderr)}


def main(arguments, scratch):
    stream, moments, weights, seen = prepare(arguments, scratch)
    weights = {name: w for name, w in weights.items() if fnmatch.fnmatch(name, arguments.match)}
    torch.set_num_threads(THREADS)
    times = [], []
    for _ in range(arguments.runs):
        took, errors = ours(stream, moments, arguments, scratch)
        times[0].append(took)
        took, rounded = theirs(weights, seen, arguments)
        times[1].append(took)
    mine, other = (statistics.median(each) for each in times)
    ratios = sorted((errors[name] / weighted(w, rounded[name], seen[name]), name) for name, w in weights.items())
    print(f"{len(weights)} matrices, {arguments.bits} bits, groups of {arguments.group}{', turned' if arguments.rotate else ''}"
          f"{f', rank {arguments.residual_chi}' if arguments.residual_chi else ''}: quantize {mine:.1f} s, "
          f"torch {torch.__version__} {other:.1f} s, {other / mine:.2f} times")
    print(f"weighted squared error, ours to the script's: {ratios[0][0]:.4f} ({ratios[0][1]}) to {ratios[-1][0]:.4f} ({ratios[-1][1]})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--rotate", action="store_true")
    parser.add_argument("--residual-chi", type=int, default=0)
    parser.add_argument("--match", default="*_proj.weight")
    parser.add_argument("--moments")
    parser.add_argument("--text", default=os.path.join(ROOT, "README.md"))
    parser.add_argument("--runs", type=int, default=1)
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        main(parser.parse_args(), directory)
