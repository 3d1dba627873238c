#!/usr/bin/env python3
"""forward_oracle.py - the forward pass against transformers, in single precision on both sides: logits of all tokens,
layer by layer and resident, and 64 tokens of the most likely continuation. TAP.

Small random models of each family, made here from a configuration; stories260K; SmolLM2 where SMOLLM2 names a GGUF
file or a directory; and compressed models against their own dense form. Written against transformers 5.24.0, torch
2.15.0."""
import os
import pathlib
import subprocess
import warnings

import numpy as np
import torch
import transformers

from shared.tap import check, run, shell

ROOT = pathlib.Path(__file__).resolve().parents[2]
DUMP = pathlib.Path(os.environ.get("B", ROOT / "build"), "tests", "oracles", "forward_dump")
STORIES = ROOT / "pipelines" / "models" / "stories260K"
BOUND = 2e-4                     # of the largest logit
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=128)
GRANITE = dict(embedding_multiplier=12.0, attention_multiplier=0.0078125, residual_multiplier=0.22, logits_scaling=16.0)
WINDOW = dict(use_sliding_window=True, sliding_window=9, max_window_layers=1)
FAMILIES = {
    "llama": ("llama", {}),
    "llama, one key head, tied": ("llama", dict(num_key_value_heads=1, tie_word_embeddings=True)),
    "llama, as many key heads, biases": ("llama", dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True)),
    "llama, head_dim 20": ("llama", dict(head_dim=20, rope_parameters=dict(rope_type="default", rope_theta=5e5))),
    "llama, linear rope": ("llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0))),
    "llama, llama3 rope": ("llama", dict(head_dim=32, rope_parameters=LLAMA3)),
    "llama, yarn rope": ("llama", dict(head_dim=32, rope_parameters=YARN)),
    "llama, yarn rope, all set": ("llama", dict(head_dim=32, rope_parameters=dict(
        YARN, beta_fast=16.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.4, truncate=False))),
    "mistral, window": ("mistral", dict(sliding_window=16, head_dim=8)),
    "mistral, no window": ("mistral", dict(sliding_window=None, head_dim=12)),
    "granite": ("granite", GRANITE),
    "granite, tied, biases": ("granite", dict(GRANITE, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "qwen2": ("qwen2", {}),
    "qwen2, window": ("qwen2", WINDOW),
    "qwen3, head_dim 16": ("qwen3", dict(head_dim=16)),
    "qwen3, window, biases": ("qwen3", dict(WINDOW, head_dim=16, attention_bias=True)),
}
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore", FutureWarning)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def ours(mode, device, model, sequences):
    """What forward_dump writes for these token ids: [rows, vocabulary] or [sequences, tokens]."""
    with open("ids", "w", encoding="utf-8") as file:
        file.writelines(" ".join(map(str, sequence)) + "\n" for sequence in sequences)
    with open("/dev/null" if model != "-" else "pipe.tns", "rb") as pipe:
        subprocess.run([DUMP, mode, device, model, "ids", "out"], check=True, stdin=pipe)
    if mode == "greedy":
        return np.loadtxt("out", dtype=np.int64, ndmin=2)
    rows = len(sequences) if mode == "network" else sum(map(len, sequences))
    return np.fromfile("out", dtype=np.float32).reshape(rows, -1)


def theirs(model, sequences):
    with torch.no_grad():
        return [model(torch.tensor([sequence])).logits[0].float().numpy() for sequence in sequences]


def greedy(model, sequence, steps=64):
    ids, given, cache = [], list(sequence), None
    with torch.no_grad():
        while len(ids) < steps:
            out = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
            given, cache = [int(out.logits[0, -1].argmax())], out.past_key_values
            ids += given
    return ids


def compare(what, model, path, sequences):
    """model: transformers' own; path: what forward_dump reads."""
    expected = theirs(model, sequences)
    scale = max(np.abs(logits).max() for logits in expected)
    worst = {}
    for device in ("reference", "cpu"):
        if device == "reference" and model.num_parameters() > 1e7:
            continue             # plain loops, slow: small models say the same
        got = ours("logits", device, path, sequences)
        last = ours("network", device, path, sequences)
        difference = np.abs(got - np.concatenate(expected)).max()
        difference = max(difference, np.abs(last - np.stack([logits[-1] for logits in expected])).max())
        worst[device] = float(difference / scale)
    check(all(value <= BOUND for value in worst.values()), f"{what}: logits")
    print("# largest difference / largest logit:", ", ".join(f"{key} {value:.2g}" for key, value in worst.items()),
          flush=True)
    texts = [greedy(model, sequence) for sequence in sequences[:2]]
    check(ours("greedy", "cpu", path, sequences[:2]).tolist() == texts, f"{what}: 64 tokens")


def random_sequences(vocabulary, lengths=(150, 3, 40, 1)):
    generator = np.random.default_rng(0)
    return [generator.integers(0, vocabulary, n).tolist() for n in lengths]


def randomize(model):
    """Logits far from 0 and from each other."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 2:
                parameter.copy_(noise * parameter.shape[1] ** -0.5 * (4 if "lm_head" in name else 1))
            else:
                parameter.copy_(noise * 0.1 + (0 if name.endswith("bias") else 1))


def make(family, changes, out):
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model)
    model.save_pretrained(out)
    return model


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32,
                                                             attn_implementation="eager").eval()


def compare_compressed(what, source, filters, sequences):
    """A compressed model, from a directory and from a pipe, against its own dense form in transformers."""
    shell(f"rm -rf packed dense; extract-layer {source} | {filters} >pipe.tns; assemble -q pipe.tns -o packed;"
          "assemble -q pipe.tns --dense --dtype f32 -o dense")
    model = load("dense")
    compare(f"{what}, directory", model, "packed", sequences)
    a, b = (ours("logits", "cpu", path, sequences) for path in ("packed", "-"))
    check(np.array_equal(a, b), f"{what}, pipe: the same bits as from the directory")


COMPRESSED = {
    "4 bits": "quantize -q --bits 4 --group 32 --embedding-bits 4",
    "3 bits, integer zero, short groups": "quantize -q --bits 3 --group 24 --zero int",
    "low rank": "mpo-decompose -q --keep 0.5 --dtype f16 --shape auto --force",
    "chains of three cores": "mpo-decompose -q --chi 12 --sites 3 --dtype f32 --force",
    "all matrices, embedding too, packed chains":
        "mpo-decompose -q --chi 16 --sites 2 -m '*' --force | quantize -q -b 8",
}


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for number, (what, (family, changes)) in enumerate(FAMILIES.items()):
        model = make(family, changes, f"m{number}")
        compare(what, model, f"m{number}", random_sequences(SIZES["vocab_size"]))
    stories = load(STORIES)
    sequences = random_sequences(stories.config.vocab_size) + [[1, 403, 407, 261, 378, 432, 383, 286, 261, 376]]
    compare("stories260K", stories, STORIES, sequences[::-1])
    for what, filters in COMPRESSED.items():
        compare_compressed(f"stories260K, {what}", STORIES, filters, sequences[::-1])
    compare_compressed("granite, low rank", "m10", COMPRESSED["low rank"], random_sequences(SIZES["vocab_size"]))
    if os.environ.get("SMOLLM2"):
        path = os.environ["SMOLLM2"]
        shell(f"assemble -q {path} --dense --dtype f32 -o smollm2")
        model, tokenizer = load("smollm2"), transformers.AutoTokenizer.from_pretrained("smollm2")
        texts = [tokenizer(text).input_ids for text in ("The capital of France is", "Once upon a time",
                                                        " ".join(map(str, range(120))))]
        compare("SmolLM2", model, path, texts)
        compare_compressed("SmolLM2, half the parameters", path, "mpo-decompose -q --keep 0.5", texts)
    else:
        check(True, "SmolLM2", "SMOLLM2 names no copy of it")


if __name__ == "__main__":
    run(main)
