#!/usr/bin/env python3
"""All of SmolLM2's matrices by a whitened low-rank fit: mpo-decompose --moments, reading and writing included, beside a script in
torch (whitening by the eigenvectors of H, then an SVD) that has matrices and moments in memory, in turns, on two threads each.

    aware.py [--keep R] [--moments FILE] [--text FILE] [--runs N]

SMOLLM2 names the model (a GGUF file or a directory). Without moments they are calibrated on the text (default: the README).
Tells medians of seconds, and the ratio of the weighted squared errors for each matrix. Skipped where torch or the model isn't there.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.environ.get("SMOLLM2")
os.environ["PATH"] = os.environ.get("BIN", os.path.join(ROOT, "bin")) + ":" + os.environ["PATH"]
THREADS = 2
if not MODEL:
    sys.exit(print("aware.py: SMOLLM2 names no model, nothing compared"))
try:
    import msgpack
    import numpy as np
    import torch
except ImportError as error:
    sys.exit(print(f"aware.py: {error.name} isn't installed, nothing compared"))


def records(path):
    """(map, payload) of each record of a stream in one piece."""
    unpacker = msgpack.Unpacker(open(path, "rb"), max_buffer_size=0)
    next(unpacker), next(unpacker)
    for record in unpacker:
        if record["kind"] == "end":
            return
        _, payload, _ = next(unpacker), next(unpacker), next(unpacker)
        yield record, payload


def full(packed, n):
    h = np.zeros((n, n), np.float32)
    h[np.tril_indices(n)] = packed
    return torch.from_numpy(h + np.tril(h, -1).T)


def whitened(w, h, rank):
    values, vectors = torch.linalg.eigh(h.double())
    root = values.clamp_min(values[-1] * 1e-6).sqrt()
    s, inverse = (vectors * root).float(), (vectors / root).float()
    u, d, v = torch.linalg.svd(w @ s, full_matrices=False)
    return (u[:, :rank] * d[:rank]) @ v[:rank] @ inverse.T


def theirs(weights, moments, keep):
    start = time.perf_counter()
    fits = {}
    for name, w in weights.items():
        out, width = w.shape
        fits[name] = whitened(w, moments[name], max(1, int(keep * out * width / (out + width))))
    return time.perf_counter() - start, fits


def ours(stream, moments, keep, scratch):
    start = time.perf_counter()
    run = subprocess.run(["mpo-decompose", "-v", "--keep", str(keep), "--moments", moments, "--threads", str(THREADS), stream, "-o",
                          os.path.join(scratch, "out.tns")], capture_output=True, text=True, check=True)
    took = time.perf_counter() - start
    return took, {name: float(error) ** 2 for name, error in re.findall(r"'(\S+)': .* weighted ([\d.e-]+)", run.stderr)}


def weighted(w, fit, h):
    d, w, h = (w - fit).double(), w.double(), h.double()
    return float(((d @ h) * d).sum() / ((w @ h) * w).sum())


def prepare(arguments, scratch):
    """Paths of an unpacked stream and moments, and by name the matrices and what they see."""
    stream, moments = os.path.join(scratch, "plain.tns"), arguments.moments or os.path.join(scratch, "moments")
    with subprocess.Popen(["extract-layer", MODEL], stdout=subprocess.PIPE) as reading:
        subprocess.run(["quantize", "-q", "--inverse", "--match", "*", "-o", stream], stdin=reading.stdout, check=True)
    if not arguments.moments:
        subprocess.run(["calibrate", "-q", stream, arguments.text, "--context", "512", "-o", moments], check=True)
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    weights = {record["name"]: torch.frombuffer(bytearray(payload), dtype=kinds[record["dtype"]]).reshape(record["shape"]).float()
               for record, payload in records(stream) if record["name"].endswith("_proj.weight")}
    seen = {}
    for record, payload in records(moments):
        h = full(np.frombuffer(payload, "<f4"), record["width"]) if "weights" in record else None
        seen.update((name, h) for name in record.get("weights", []))
    return stream, moments, weights, seen


def main(arguments, scratch):
    stream, moments, weights, seen = prepare(arguments, scratch)
    torch.set_num_threads(THREADS)
    times = [], []
    for _ in range(arguments.runs):
        took, errors = ours(stream, moments, arguments.keep, scratch)
        times[0].append(took)
        took, fits = theirs(weights, seen, arguments.keep)
        times[1].append(took)
    mine, other = (statistics.median(each) for each in times)
    ratios = sorted((errors[name] / weighted(w, fits[name], seen[name]), name) for name, w in weights.items())
    print(f"{len(weights)} matrices, keep {arguments.keep}: mpo-decompose {mine:.1f} s, torch {torch.__version__} {other:.1f} s, "
          f"{other / mine:.2f} times")
    print(f"weighted squared error, ours to the script's: {ratios[0][0]:.4f} ({ratios[0][1]}) to {ratios[-1][0]:.4f} ({ratios[-1][1]})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--moments")
    parser.add_argument("--text", default=os.path.join(ROOT, "README.md"))
    parser.add_argument("--runs", type=int, default=1)
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        main(parser.parse_args(), directory)
