#!/usr/bin/env python3
"""Truncated SVDs of others beside ours, on the matrices of bench_svd, at the energy that ours captures.

    svd_peers.py [BENCH_SVD] [--case N] [--spectrum A] [--quick]

BENCH_SVD is the built program (default: $B/tests/bench/bench_svd). numpy and torch (where it imports) iterate
until they capture as much energy as ours; what decomposes everything stands beside them: torch.linalg.svd and tensorly's
tensor_train, unless --quick. Two threads each.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "2"
try:
    import numpy as np
except ImportError:
    sys.exit(print("svd_peers.py: numpy isn't installed, nothing compared"))

SHAPES = [(12800, 4096), (5120, 10240), (4096, 4096), (4096, 4096)]
CHI, EXTRA = 100, 16


def best_of(repeats, run):
    """The shortest time and the last result."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return best, result


def randomized(a, iterations):
    """Halko, Martinsson, Tropp 2011: range finder with power iterations, orthonormalised at each half."""
    rng = np.random.default_rng(0)
    q = a @ rng.standard_normal((a.shape[1], CHI + EXTRA), dtype=np.float32)
    for _ in range(iterations):
        q = np.linalg.qr(q)[0]
        q = np.linalg.qr(a.T @ q)[0]
        q = a @ q
    q = np.linalg.qr(q)[0]
    u, s, vt = np.linalg.svd(q.T @ a, full_matrices=False)
    return float(np.sum(s[:CHI].astype(np.float64) ** 2)), q @ u[:, :CHI], s[:CHI, None] * vt[:CHI]


def report(name, seconds, energy, ours):
    times, part = seconds / ours[0], energy / ours[1]
    print(f"  {name:44s} {seconds:8.3f} s  {times:6.1f} x ours  energy {part:.4f} of ours", flush=True)


def until_equal(name, run, ours):
    """Raises the iterations until run(iterations) captures what ours does."""
    for iterations in range(0, 41):
        seconds, result = best_of(1, lambda: run(iterations))
        if result[0] >= 0.9999 * ours[1]:
            seconds, result = best_of(2, lambda: run(iterations))
            report(f"{name}, {iterations} iterations", seconds, result[0], ours)
            return
    report(f"{name}, not reached in 40 iterations", seconds, result[0], ours)


def torch_rows(a, ours, full):
    try:
        import torch
    except ImportError:
        print("  torch: not installed")
        return
    torch.set_num_threads(2)
    t = torch.from_numpy(a)

    def lowrank(iterations):
        s = torch.svd_lowrank(t, q=CHI + EXTRA, niter=iterations)[1]
        return (float((s[:CHI].double() ** 2).sum()),)

    until_equal(f"torch {torch.__version__} svd_lowrank", lowrank, ours)
    if full:
        seconds, s = best_of(1, lambda: torch.linalg.svd(t, full_matrices=False)[1])
        report("torch.linalg.svd", seconds, float((s[:CHI].double() ** 2).sum()), ours)


def tensorly_row(a, ours):
    try:
        import tensorly
        from tensorly.decomposition import tensor_train
    except ImportError:
        print("  tensorly: not installed")
        return
    seconds, cores = best_of(1, lambda: tensor_train(a, rank=[1, CHI, 1]))
    energy = float(np.sum(np.asarray(cores[1]).astype(np.float64) ** 2))
    report(f"tensorly {tensorly.__version__} tensor_train", seconds, energy, ours)


def compare(bench, case, spectrum, full):
    m, n = SHAPES[case]
    lines = subprocess.run([bench, "3", str(case)], capture_output=True, text=True, check=True).stdout.splitlines()
    label = f"k^-{spectrum:.1f}" if spectrum else "noise"
    line = next(line for line in lines if f" {label} " in line)
    print(line)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "a")
        subprocess.run([bench, "write", path, str(case), str(spectrum)], check=True)
        a = np.fromfile(path, dtype=np.float32).reshape(m, n)
    seconds = float(re.search(r"([\d.]+) s, six", line).group(1))
    part = float(re.search(r"energy ([\d.]+)", line).group(1))
    if spectrum:
        best = float(np.sum(np.arange(1, CHI + 1) ** (-2.0 * spectrum)))
    else:
        best = [0.056356018, 0.053569983, 0.089201087, 0.089201087][case] * m * n
    ours = (seconds, part * best)
    until_equal(f"numpy {np.__version__} randomized SVD", lambda i: randomized(a, i), ours)
    torch_rows(a, ours, full)
    if full:
        tensorly_row(a, ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = os.path.join(os.environ.get("B", "build"), "tests/bench/bench_svd")
    parser.add_argument("bench", nargs="?", default=built)
    parser.add_argument("--case", type=int, default=2)
    parser.add_argument("--spectrum", type=float, default=0.5)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    compare(arguments.bench, arguments.case, arguments.spectrum, not arguments.quick)
