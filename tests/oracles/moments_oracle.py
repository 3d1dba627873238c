#!/usr/bin/env python3
"""moments_oracle.py - calibrate's moments against forward hooks in transformers, summed up in double: small random models
of several families, whole; a compressed model with the dense one beside it, block by block; and SmolLM2 where SMOLLM2
names a directory and TEXT a text. TAP."""
import json
import os
import pathlib
import sys
import warnings

import msgpack
import numpy as np
import torch
import transformers

from shared.tap import check, run, shell

ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE = ROOT / "tests" / "tools" / "random_model.py"
BOUND = 1e-5                     # relative, Frobenius
PARTS = {"self_attn.qkv": "self_attn.q_proj", "self_attn.o": "self_attn.o_proj", "mlp.gateup": "mlp.up_proj",
         "mlp.down": "mlp.down_proj"}
FAMILIES = {"llama": "", "granite": "", "mistral": "", "qwen2": "", "qwen3": "", "llama biased":
            "--set attention_bias=true --set mlp_bias=true"}
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore", FutureWarning)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def read(path):
    """The records of a stream by name: (map, numbers)."""
    with open(path, "rb") as file:
        unpacker = msgpack.Unpacker(file, max_buffer_size=0)
        next(unpacker), next(unpacker)
        records = {}
        for record in unpacker:
            if record["kind"] == "end":
                return records
            _, payload, _ = next(unpacker), next(unpacker), next(unpacker)
            kind = {"f32": "<f4", "i64": "<i8"}[record["dtype"]]
            records[record["name"]] = record, np.frombuffer(payload, kind).reshape(record["shape"])
    raise EOFError(path)


def full(packed):
    n = int((2 * len(packed)) ** 0.5)
    h = np.zeros((n, n))
    h[np.tril_indices(n)] = packed
    return h + np.tril(h, -1).T


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def inputs(model, sequences, look):
    """look(name, x) gets what the matrices of each part see, x [tokens, n] in double, sequence by sequence."""
    hooks = []
    for number, layer in enumerate(model.model.layers):
        for part, module in PARTS.items():
            def hook(_, given, name=f"model.layers.{number}.{part}"):
                look(name, given[0].reshape(-1, given[0].shape[-1]).double().numpy())
            hooks.append(layer.get_submodule(module).register_forward_pre_hook(hook))
    with torch.no_grad():
        for sequence in sequences:
            model.model(torch.tensor([sequence]))
    for hook in hooks:
        hook.remove()


def collected(model, sequences):
    seen = {}
    inputs(model, sequences, lambda name, x: seen.setdefault(name, []).append(x))
    return seen


def gram(a, b):
    """E[a b'] over all sequences."""
    a, b = np.concatenate(a), np.concatenate(b)
    return a.T @ b / len(a)


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def text(vocabulary):
    """A tokenizer for random models: each character is a token; and a text of such."""
    letters = [chr(ord("!") + i) for i in range(90) if chr(ord("!") + i) not in "\\"]
    tokens = {letter: i for i, letter in enumerate(letters)}
    assert len(tokens) <= vocabulary
    with open("tokenizer.json", "w", encoding="utf-8") as file:
        json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                   "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                                     "use_regex": False}, "post_processor": None, "decoder": {"type": "ByteLevel"},
                   "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": tokens,
                             "merges": []}}, file)
    ids = np.random.default_rng(1).integers(0, len(letters), 700)
    pathlib.Path("text").write_text("".join(letters[i] for i in ids), encoding="utf-8")
    return ids.tolist()


def family(name, options, ids):
    directory = name.replace(" ", "-")
    shell(f"{sys.executable} {MADE} {directory} --family {name.split()[0]} {options} && cp tokenizer.json {directory}/"
          f" && calibrate -q {directory} text --context 100 --sequences 7 -o moments")
    seen, records = collected(load(directory), [ids[i:i + 100] for i in range(0, 700, 100)]), read("moments")
    worst = max(error(full(records[part][1]), gram(x, x)) for part, x in seen.items())
    print(f"# {name}: {worst:.2g}")
    check(seen.keys() == records.keys() and worst <= BOUND, f"moments of a {name}")


def sequential(ids):
    """Blocks 0 and 1 cut, the dense model beside; the last two sequences held out."""
    shell("""extract-layer llama | mpo-decompose -q --chi 8 --dtype f32 --force | tee cut.tns | mpo-contract -q |
                 assemble -q --dense -o cut && cp tokenizer.json cut/
             calibrate -q llama text --context 100 --sequences 7 --embedding --hidden-out dense.0
             cp dense.0 cut.0
             for k in 0 1; do
                 calibrate -q cut.tns --block $k --hidden-in cut.$k --hidden-out cut.$((k + 1)) --held 2 -o moments.$k \\
                     --reference llama --reference-hidden-in dense.$k --reference-hidden-out dense.$((k + 1))
             done""")
    sequences, worst = [ids[i:i + 100] for i in range(0, 700, 100)], 0
    seen, dense = collected(load("cut"), sequences), collected(load("llama"), sequences)
    for block in (0, 1):
        records = read(f"moments.{block}")
        for part in PARTS:
            name = f"model.layers.{block}.{part}"
            x, y = seen[name], dense[name]
            worst = max(worst, error(full(records[name][1]), gram(x[:5], x[:5])),
                        error(records[name + ".cross"][1], gram(y[:5], x[:5])),
                        error(full(records[name + ".held"][1]), gram(x[5:], x[5:])),
                        error(records[name + ".held.cross"][1], gram(y[5:], x[5:])))
    print(f"# {worst:.2g}")
    check(worst <= BOUND, "cross moments of a cut model and the dense one")


def smollm2(model, path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    ids = tokenizer.encode(pathlib.Path(path).read_text(encoding="utf-8")[:60000])[:4096]
    shell(f"calibrate -q '{model}' '{path}' --context 1024 --sequences 4 -o moments")
    sums, worst = {}, 0

    def add(name, x):
        sums[name] = sums.get(name, 0) + x.T @ x

    inputs(load(model), [ids[i:i + 1024] for i in range(0, 4096, 1024)], add)
    for name, (_, packed) in read("moments").items():
        worst = max(worst, error(full(packed), sums[name] / 4096))
    print(f"# SmolLM2: {worst:.2g}")
    check(worst <= BOUND, "moments of SmolLM2")


def main():
    ids = text(96)
    for name, options in FAMILIES.items():
        family(name, options, ids)
    sequential(ids)
    model, path = os.environ.get("SMOLLM2"), os.environ.get("TEXT")
    if model and path and os.path.isdir(model):
        smollm2(model, path)
    else:
        check(True, "moments of SmolLM2", skip="SMOLLM2 and TEXT name no directory and text")


run(main)
