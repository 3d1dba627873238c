#!/usr/bin/env python3
"""random_model.py OUT - writes a checkpoint with random weights, tensor by tensor, with nothing but numpy.

    --family F         llama, mistral, granite, qwen2 or qwen3: a tiny model of that family (default: llama)
    --like NAME        instead: the configuration of granite-3.3-8b or granite-3.3-2b, in bf16
    --layers N         this many layers
    --dtype T          F32, F16 or BF16 (default: F32; with --like BF16)
    --set KEY=JSON     changes a member of config.json, before the tensors follow from it (may be repeated)
    --store-head       stores lm_head.weight although it is tied
    --max-shard-size N bytes of tensors per file (default: 5 GB, as Hugging Face has it)
    --seed N

Each tensor depends on seed and name only. Norms are near 1, matrices have a standard deviation of 1/sqrt(columns).
"""
import argparse
import json
import os
import struct
import zlib

import numpy as np

TINY = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-5,
            initializer_range=0.02, tie_word_embeddings=False, rope_parameters={"rope_type": "default",
                                                                                "rope_theta": 10000.0},
            bos_token_id=1, eos_token_id=2, use_cache=True, attention_dropout=0.0)
FAMILIES = {
    "llama": dict(architectures=["LlamaForCausalLM"], model_type="llama", attention_bias=False, mlp_bias=False,
                  head_dim=8),
    "mistral": dict(architectures=["MistralForCausalLM"], model_type="mistral", head_dim=8, sliding_window=16),
    "granite": dict(architectures=["GraniteForCausalLM"], model_type="granite", attention_bias=False, mlp_bias=False,
                    embedding_multiplier=12.0, attention_multiplier=0.125, residual_multiplier=0.22,
                    logits_scaling=16.0, tie_word_embeddings=True),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=False, sliding_window=None,
                  max_window_layers=3),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16, attention_bias=False,
                  use_sliding_window=False, sliding_window=None, max_window_layers=3),
}
GRANITE = dict(architectures=["GraniteForCausalLM"], model_type="granite", vocab_size=49159, num_hidden_layers=40,
               num_attention_heads=32, num_key_value_heads=8, hidden_act="silu", max_position_embeddings=131072,
               rms_norm_eps=1e-5, initializer_range=0.02, tie_word_embeddings=True, rope_theta=10000000.0,
               rope_scaling=None, attention_bias=False, mlp_bias=False, attention_dropout=0.0,
               embedding_multiplier=12.0, residual_multiplier=0.22, bos_token_id=0, eos_token_id=0,
               pad_token_id=0, use_cache=True, torch_dtype="bfloat16")
LIKE = {
    "granite-3.3-8b": dict(GRANITE, hidden_size=4096, intermediate_size=12800, attention_multiplier=0.0078125,
                           logits_scaling=16.0),
    "granite-3.3-2b": dict(GRANITE, hidden_size=2048, intermediate_size=8192, attention_multiplier=0.015625,
                           logits_scaling=8.0),
}
SIZE = {"F32": 4, "F16": 2, "BF16": 2}
WORD = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def tensors(config, store_head):
    """Yields (name, shape) in the order of the file."""
    hidden, feed, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, keys, kind = heads * head, config["num_key_value_heads"] * head, config["model_type"]
    qkv_bias = config.get("attention_bias", False) or kind == "qwen2"
    if not config["tie_word_embeddings"] or store_head:
        yield "lm_head.weight", (config["vocab_size"], hidden)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        def name(rest):
            return f"model.layers.{layer}.{rest}"
        yield name("input_layernorm.weight"), (hidden,)
        for part, out, inner in (("down", hidden, feed), ("gate", feed, hidden), ("up", feed, hidden)):
            if config.get("mlp_bias", False):
                yield name(f"mlp.{part}_proj.bias"), (out,)
            yield name(f"mlp.{part}_proj.weight"), (out, inner)
        yield name("post_attention_layernorm.weight"), (hidden,)
        for part, out, inner in (("k", keys, hidden), ("o", hidden, queries), ("q", queries, hidden), ("v", keys,
                                                                                                       hidden)):
            if kind == "qwen3" and part in "kq":
                yield name(f"self_attn.{part}_norm.weight"), (head,)
            if qkv_bias and (part != "o" or kind != "qwen2"):
                yield name(f"self_attn.{part}_proj.bias"), (out,)
            yield name(f"self_attn.{part}_proj.weight"), (out, inner)
    yield "model.norm.weight", (hidden,)


def encode(values, dtype):
    """f32 values as little-endian bytes, rounded to nearest, ties to even."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def write_tensor(file, name, shape, dtype, seed):
    """Sixteen million numbers at a time."""
    generator = np.random.Generator(np.random.Philox([seed, zlib.crc32(name.encode())]))
    left = int(np.prod(shape))
    scale, offset = (0.1, 0.0 if name.endswith("bias") else 1.0) if len(shape) == 1 else (shape[1] ** -0.5, 0.0)
    while left:
        values = generator.standard_normal(min(left, 1 << 24), dtype=np.float32)
        values *= np.float32(scale)
        values += np.float32(offset)
        file.write(encode(values, dtype))
        left -= values.size


def write_shard(path, listed, dtype, seed):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in listed:
        size = int(np.prod(shape)) * SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in listed:
            write_tensor(file, name, shape, dtype, seed)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_model(out, config, dtype, seed, limit, store_head):
    shards, room = [], 0
    for name, shape in tensors(config, store_head):
        size = int(np.prod(shape)) * SIZE[dtype]
        if size > room:
            shards.append([])
            room = limit
        shards[-1].append((name, shape))
        room -= size
    os.makedirs(out)
    write_json(f"{out}/config.json", config)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for file, listed in zip(names, shards):
        write_shard(f"{out}/{file}", listed, dtype, seed)
    if len(shards) > 1:
        total = sum(int(np.prod(shape)) * SIZE[dtype] for listed in shards for _, shape in listed)
        weight_map = {name: file for file, listed in zip(names, shards) for name, _ in listed}
        write_json(f"{out}/model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--like", choices=LIKE)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", choices=SIZE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--store-head", action="store_true")
    parser.add_argument("--max-shard-size", type=float, default=5e9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dtype = args.dtype or ("BF16" if args.like else "F32")
    config = dict(LIKE[args.like]) if args.like else {**TINY, **FAMILIES[args.family]}
    config["torch_dtype" if args.like else "dtype"] = WORD[dtype]
    if args.layers:
        config["num_hidden_layers"] = args.layers
    for change in args.set:
        key, value = change.split("=", 1)
        config[key] = json.loads(value)
    write_model(args.out, config, dtype, args.seed, args.max_shard_size, args.store_head)


if __name__ == "__main__":
    main()
