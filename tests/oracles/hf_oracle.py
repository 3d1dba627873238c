#!/usr/bin/env python3
"""hf_oracle.py - transformers loads what assemble writes: state dicts bit for bit, logits equal, nothing missing. TAP.

Small random models of each family made here, stories260K, and SmolLM2 where SMOLLM2 names a GGUF file or a directory.
The directories of Lapidary's own are also read by safetensors and numpy alone, after stream/FORMAT's description.
Written against transformers 5.24.0, torch 2.15.0, safetensors 0.8.0."""
import json
import os
import re
import subprocess
import sys

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared.tap import BIN, check, run, shell

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K")
FAMILIES = {
    "llama": [], "llama with biases": ["--set", "attention_bias=true", "--set", "mlp_bias=true"],
    "llama, tied": ["--set", "tie_word_embeddings=true"],
    "llama, tied, head stored": ["--set", "tie_word_embeddings=true", "--store-head"],
    "llama in bf16": ["--dtype", "BF16"], "llama in f16": ["--dtype", "F16"],
    "mistral": ["--family", "mistral"], "granite": ["--family", "granite"], "qwen2": ["--family", "qwen2"],
    "qwen3": ["--family", "qwen3"],
}
os.environ["HF_HUB_OFFLINE"] = "1"
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load(path):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    trouble = {key: value for key, value in info.items() if value}
    if trouble:
        print(f"# {path}: {trouble}")
    return model.eval(), not trouble


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def logits(model):
    ids = torch.arange(40).remainder(model.config.vocab_size)[None]
    with torch.no_grad():
        return model(ids).logits


def check_plain(what, source, out):
    original, _ = load(source)
    shell(f"extract-layer {source} | assemble -q -o {out} --max-shard-size 50KB")
    copy, whole = load(out)
    check(whole and same_state(original, copy) and torch.equal(logits(original), logits(copy)), f"{what}: assembled")
    shell(f"assemble -q {source} --dense --dtype f32 -o {out}.f32")
    wide, whole = load(f"{out}.f32")
    check(whole and all(p.dtype == torch.float32 for p in wide.parameters())
          and same_state(original.float(), wide), f"{what}: --dense --dtype f32")


def unpack(codes, bits, group, length):
    """codes uint8 [rows, code_bytes], each group from a whole byte on -> [rows, length]."""
    parts, at = [], 0
    for first in range(0, length, group):
        n = min(group, length - first)
        size = (n * bits + 7) // 8
        flat = np.unpackbits(codes[:, at:at + size], axis=1, bitorder="little")[:, :n * bits]
        parts.append((flat.reshape(len(codes), n, bits).astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(2))
        at += size
    return np.concatenate(parts, 1)


def read_tensor(record, base, weights):
    """A record's tensor in f32, from the stored tensors."""
    parts = re.fullmatch(r"q(\d)-(\d+|row)-(none|int|min)", record["dtype"])
    if not parts:
        return weights[base].float().numpy()
    axes = list(record["shape"])
    while len(axes) > 1 and axes[-1] == 1:
        axes.pop()
    bits, length = int(parts[1]), axes[-1]
    group = length if parts[2] == "row" else int(parts[2])
    code = unpack(weights[base + ".codes"].numpy(), bits, group, length).astype(np.float32)
    scale = weights[base + ".scale"].float().numpy()

    def spread(values):
        return np.repeat(values, group, axis=1)[:, :length].astype(np.float32)
    if parts[3] == "none":
        value = spread(scale) * (code - np.float32(2 ** (bits - 1)))
    elif parts[3] == "int":
        zero = unpack(weights[base + ".zero_point"].numpy(), bits, scale.shape[1], scale.shape[1])
        value = spread(scale) * (code - spread(zero))
    else:
        value = spread(scale) * code + spread(weights[base + ".minimum"].float().numpy())
    return value.reshape(record["shape"])


def contract(cores):
    """A chain of cores [chi_left, d_out, d_in, chi_right] -> [out, in], in double."""
    left = np.ones((1, 1, 1))
    for core in cores:
        left = np.einsum("oix,xpjy->opijy", left, core.astype(np.float64))
        left = left.reshape(left.shape[0] * left.shape[1], -1, left.shape[-1])
    return left[:, :, 0]


def read_lapidary(path):
    """{name: matrix} of the records that are not plain, and {name: tensor} of all that is stored plainly."""
    weights, records = {}, []
    for file in sorted(os.listdir(path)):
        if not file.endswith(".safetensors"):
            continue
        weights.update(load_file(f"{path}/{file}"))
        with safe_open(f"{path}/{file}", "pt") as shard:
            records += json.loads((shard.metadata() or {}).get("lapidary", "[]"))
    chains, matrices = {}, {}
    for record in records:
        name = record["name"]
        if record["kind"] == "tensor":
            matrices[name] = read_tensor(record, name, weights)
            continue
        (term, terms), (site, sites) = record["term"], record["site"]
        core = read_tensor(record, f"{name}.{term}.{site}", weights)
        chains.setdefault(name, {}).setdefault(term, {})[site] = core
        assert site < sites and term < terms
    for name, terms in chains.items():
        matrices[name] = sum(contract([sites[s] for s in sorted(sites)]) for sites in terms.values())
    return matrices, weights


def check_lapidary(what, source, filters, out, bound):
    """bound: the largest relative difference allowed per matrix; 0 where each number is one rounded product and sum."""
    shell(f"extract-layer {source} | {filters} | assemble -q -o {out} --max-shard-size 100KB")
    try:
        load(out)
        refused = False
    except ValueError:
        refused = True
    check(refused, f"{what}: transformers refuses the packed directory")
    shell(f"assemble -q {out} --dense -o {out}.dense")
    dense, whole = load(f"{out}.dense")
    stored, (matrices, weights) = dense.state_dict(), read_lapidary(out)
    worst = 0.0
    for name, matrix in matrices.items():
        got = stored[name].float().numpy().astype(np.float64)
        worst = max(worst, np.linalg.norm(got - matrix) / np.linalg.norm(matrix))
    plain = all(torch.equal(weights[name], tensor) for name, tensor in stored.items() if name in weights)
    check(whole and matrices and plain and worst <= bound, f"{what}: {len(matrices)} matrices made dense")
    print(f"# worst relative difference {worst:.3g}, bound {bound:.3g}")


def write_chains(out):
    """stories260K with one matrix as two chains of f16 and f32 cores, as another program than ours may write it."""
    name, weights = "model.layers.2.mlp.down_proj.weight", load_file(f"{STORIES}/model.safetensors")
    out_in, bonds = [[(4, 4), (4, 43), (4, 1)], [(64, 1), (1, 172)]], [[1, 5, 3, 1], [1, 2, 1]]
    records = []
    del weights[name]
    for term, sites in enumerate(out_in):
        for site, (d_out, d_in) in enumerate(sites):
            dtype = torch.float16 if site % 2 else torch.float32
            core = torch.randn(bonds[term][site], d_out, d_in, bonds[term][site + 1]).to(dtype)
            weights[f"{name}.{term}.{site}"] = core
            records.append({"kind": "core", "name": name, "term": [term, 2], "site": [site, len(sites)],
                            "dtype": "f16" if site % 2 else "f32", "shape": list(core.shape), "bytes": core.nbytes})
    os.mkdir(out)
    save_file(weights, f"{out}/model.safetensors", {"format": "pt", "lapidary": json.dumps(records)})
    with open(f"{STORIES}/config.json", encoding="utf-8") as file:
        original = json.load(file)
    with open(f"{out}/config.json", "w", encoding="utf-8") as file:
        json.dump({"model_type": "lapidary", "architectures": ["LapidaryForCausalLM"], "lapidary_version": 1,
                   "history": [],
                   "original_config": original}, file)


def check_smollm2(path):
    if not path:
        return check(True, "SmolLM2", "SMOLLM2 names no copy of it")
    shell(f"extract-layer {path} -o smollm2.tns; assemble -q smollm2.tns --dense -o smollm2 --max-shard-size 200MB")
    model, whole = load("smollm2")
    check(whole and model.num_parameters() == 134515008, "SmolLM2: assembled, nothing missing")
    shell("extract-layer smollm2 | assemble -q -o smollm2.copy; rm smollm2.tns")
    copy, whole = load("smollm2.copy")
    check(whole and same_state(model, copy), "SmolLM2: extract-layer | assemble")
    prompt = transformers.AutoTokenizer.from_pretrained("smollm2")("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        token = copy(**prompt).logits[0, -1].argmax()
    check(" Paris" in transformers.AutoTokenizer.from_pretrained("smollm2.copy").decode([token]),
          "SmolLM2: knows of Paris")


def main():
    torch.manual_seed(0)
    for number, (what, options) in enumerate(FAMILIES.items()):
        subprocess.run([sys.executable, f"{ROOT}/tests/tools/random_model.py", f"m{number}", *options], check=True)
        check_plain(what, f"m{number}", f"m{number}.copy")
    check_plain("stories260K", STORIES, "stories")
    for zero in ("none", "int", "min"):
        for bits in (2, 3, 4, 5, 6, 8):
            # 24 doesn't divide 64 or 172: short last groups
            check_lapidary(f"q{bits}, {zero}", STORIES, f"quantize -q --bits {bits} --group 24 --zero {zero}",
                           f"q{bits}{zero}", 0)
    write_chains("foreign")
    # Cores of 16 and 32 bits, W in f32: eps sqrt(chi), a few times over.
    check_lapidary("chains by another program", "foreign", "cat", "foreign.copy", 3 * 6e-8 * 5 ** 0.5)
    if os.path.exists(f"{BIN}/mpo-decompose"):
        # Cores in f32, W in f32 by sums of at most chi products: eps sqrt(chi), a few times over three cuts.
        check_lapidary("chains", STORIES, "mpo-decompose -q --chi 12 --sites 3 --dtype f32 --force", "chains",
                       3 * 6e-8 * 12 ** 0.5)
    else:
        check(True, "chains", "mpo-decompose is not built")
    check_smollm2(os.environ.get("SMOLLM2"))


if __name__ == "__main__":
    run(main)
