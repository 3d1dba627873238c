#!/usr/bin/env python3
"""gguf_oracle.py - what the library makes of GGUF files against the packages gguf, transformers and tokenizers. TAP.

Small random models of each architecture and type made here, the vocabulary of stories260K, and SmolLM2 where SMOLLM2
names a GGUF file (TOKENIZER: the tokenizer.json of its original). Texts are those here and README.md, or
DATA/wiki.test.raw[.xz] where DATA names a directory.
Written against gguf 0.19.0, transformers 5.24.0, tokenizers 0.23.3, torch 2.15.0, accelerate 1.15.0."""
import json
import lzma
import os
import pathlib
import struct
import subprocess
import tempfile

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as T
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from shared.tap import check, finish

PLAIN = {T.F32: "f32", T.F16: "f16", T.BF16: "bf16"}
TYPES = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
SCALES = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,)}   # bytes of f16 in a block
PERMUTED = {"llama", "mistral", "granite"}
ROOT = pathlib.Path(__file__).resolve().parents[2]
DUMP = pathlib.Path(os.environ.get("B", ROOT / "build"), "tests", "oracles", "gguf_dump")
STORIES = ROOT / "pipelines" / "models" / "stories260K"
os.environ["HF_HUB_OFFLINE"] = "1"
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def check_same(differing, what):
    check(not differing, what)
    if differing:
        print(f"# {str(differing)[:500]}", flush=True)


# ---- what our reader says ----


class Ours:
    """A model as gguf_dump wrote it: names -> (dtype, shape, bytes), and the companion files."""

    def __init__(self, path, directory, piece=1 << 20):
        directory.mkdir(exist_ok=True)
        subprocess.run([DUMP, path, directory, str(piece)], check=True, stdout=subprocess.DEVNULL)
        self.tensors, self.files, self.stored = {}, {}, {}
        for number, entry in enumerate(json.loads((directory / "index.json").read_text())):
            data = (directory / str(number)).read_bytes()
            if entry["kind"] == "file":
                self.files[entry["name"]] = data
            else:
                self.tensors[entry["name"]] = (entry["dtype"], entry["shape"], data)
                self.stored[entry["name"]] = (entry["stored"], entry["stored_bytes"])
        self.config = json.loads(self.files["config.json"])


# ---- what the package gguf says ----

BLOCK = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ONCE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, block, part = stem.split(".")
        return f"model.layers.{block}.{BLOCK[part]}.{suffix}"
    return f"{ONCE[stem]}.{suffix}"


def halves(rows, head_dim):
    """Rows (2j, 2j+1) of each head back to (j, j + head_dim/2)."""
    shape = rows.shape
    return rows.reshape(shape[0] // head_dim, head_dim // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def package_tensors(path):
    """Names -> (dtype, shape, bytes, stored, stored_bytes) by gguf.quants, with rows as Hugging Face has them."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    found = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        shape = [int(n) for n in reversed(tensor.shape)]
        if tensor.tensor_type in PLAIN:
            values = np.ascontiguousarray(tensor.data).view(np.uint16 if tensor.tensor_type != T.F32 else np.float32)
            dtype = PLAIN[tensor.tensor_type]
        else:
            values, dtype = gguf.quants.dequantize(tensor.data, tensor.tensor_type), "f32"
        values = values.reshape(shape)
        if architecture in PERMUTED and (".attn_q." in tensor.name or ".attn_k." in tensor.name):
            key = f"{architecture}.attention.key_length"
            key = key if key in reader.fields else f"{architecture}.rope.dimension_count"
            values = halves(values, int(reader.fields[key].contents()))
        found[hf_name(tensor.name)] = (dtype, shape, values.tobytes(), tensor.tensor_type.name, int(tensor.n_bytes))
    return found


def compare_package(ours, path, what):
    theirs = package_tensors(path)
    same = set(theirs) == set(ours.tensors) and all(
        ours.tensors[name] == value[:3] and ours.stored[name] == value[3:] for name, value in theirs.items())
    check(same, f"{what}: {len(theirs)} tensors equal gguf.quants bit for bit")


def compare_transformers(ours, path, what):
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    state = {name: value for name, value in model.state_dict().items()
             if not (name == "lm_head.weight" and model.config.tie_word_embeddings)}
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    wrong = sorted(set(state) ^ set(ours.tensors))
    for name in set(state) & set(ours.tensors):
        dtype, shape, data = ours.tensors[name]
        mine = torch.frombuffer(bytearray(data), dtype=kinds[dtype]).reshape(shape).to(torch.float32)
        if mine.shape != state[name].shape or not torch.equal(mine.view(torch.int32), state[name].view(torch.int32)):
            wrong.append(name)
    check_same(wrong, f"{what}: {len(state)} tensors equal transformers'")
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "config.json").write_bytes(ours.files["config.json"])
        mine = AutoConfig.from_pretrained(directory).to_dict()
    theirs = model.config.to_dict()
    differing = {}
    for key in theirs:
        if key in ("_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype",
                   "transformers_version", "quantization_config", "unk_token_id"):
            continue
        a, b = mine.get(key), theirs[key]
        if key == "rope_parameters":     # the same numbers, however they are spelled
            a, b = ({k: v for k, v in (r or {}).items() if v is not None} for r in (a, b))
        if isinstance(a, float) and isinstance(b, (float, int)) and np.float32(a) == np.float32(b):
            continue
        if a != b:
            differing[key] = (a, b)
    return differing


# ---- files to compare on ----


def random_blocks(random, rows, columns, kind):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, columns // elements, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = random.uniform(-0.02, 0.02, data.shape[:2]).astype(np.float16)
        scale.flat[0] = np.float16(6e-8)     # a subnormal one
        data[:, :, at:at + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def byte_alphabet():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(spare)) for b in range(256)]


class Random:
    """A small random model. types: the types its matrices take in turn."""

    def __init__(self, architecture, types, seed, **keys):
        self.architecture, self.types, self.keys = architecture, types, keys
        self.random = np.random.default_rng(seed)
        self.hidden, self.inner, self.layers, self.vocab = 256, 512, 2, 288
        self.head_dim = 128 if architecture == "qwen3" else 64
        self.heads, self.kv_heads = 4, 2

    def add(self, writer, name, *shape, vector=T.F32):
        kind = vector if len(shape) == 1 else self.types[self.count % len(self.types)]
        self.count += len(shape) == 2
        values = (self.random.standard_normal(shape) * 0.05).astype(np.float32)
        if kind in SCALES:
            writer.add_tensor(name, random_blocks(self.random, *shape, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def write(self, path, tied=False, alignment=None):
        writer = gguf.GGUFWriter(path, self.architecture)
        if alignment:
            writer.add_custom_alignment(alignment)
        a = self.architecture
        writer.add_name("random")
        for key, value in (("context_length", 512), ("embedding_length", self.hidden), ("block_count", self.layers),
                           ("feed_forward_length", self.inner), ("attention.head_count", self.heads),
                           ("attention.head_count_kv", self.kv_heads), ("rope.dimension_count", self.head_dim),
                           ("attention.key_length", self.head_dim), ("attention.value_length", self.head_dim)):
            writer.add_uint32(f"{a}.{key}", value)
        writer.add_float32(f"{a}.attention.layer_norm_rms_epsilon", 1e-6)
        writer.add_float32(f"{a}.rope.freq_base", 500000.0)
        for key, value in self.keys.get("reals", {}).items():
            writer.add_float32(f"{a}.{key}", value)
        self.add_tokenizer(writer)
        self.count = 0
        self.add(writer, "token_embd.weight", self.vocab, self.hidden)
        self.add(writer, "output_norm.weight", self.hidden)
        if not tied:
            self.add(writer, "output.weight", self.vocab, self.hidden)
        if self.keys.get("factors") is not None:
            writer.add_tensor("rope_freqs.weight", self.keys["factors"])
        for block in range(self.layers):
            self.add_block(writer, f"blk.{block}.")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def add_block(self, writer, at):
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for name in "attn_norm", "ffn_norm":
            self.add(writer, at + name + ".weight", self.hidden)
        for name, rows, columns in (("attn_q", query, self.hidden), ("attn_k", key, self.hidden),
                                    ("attn_v", key, self.hidden), ("attn_output", self.hidden, query),
                                    ("ffn_gate", self.inner, self.hidden), ("ffn_up", self.inner, self.hidden),
                                    ("ffn_down", self.hidden, self.inner)):
            self.add(writer, at + name + ".weight", rows, columns)
        biases = {"qwen2": 3, "llama-bias": 4}.get(self.keys.get("bias", self.architecture), 0)
        for name, rows in (("attn_q", query), ("attn_k", key), ("attn_v", key), ("attn_output", self.hidden))[:biases]:
            self.add(writer, at + name + ".bias", rows, vector=T.F16 if self.architecture == "llama" else T.F32)
        if self.architecture == "qwen3":
            for name in "attn_q_norm", "attn_k_norm":
                self.add(writer, at + name + ".weight", self.head_dim)

    def add_tokenizer(self, writer):
        alphabet = byte_alphabet()
        merges = ["t h", "th e", "Ġ the", "i n", "1 2", "e r", "Ġ a"]
        tokens = alphabet + [m.replace(" ", "") for m in merges]
        kinds = [1] * len(tokens) + [3, 3, 4]
        tokens += ["<|end|>", "<|turn|>", "<think>"]
        kinds += [5] * (self.vocab - len(tokens))
        tokens += [f"[PAD{i}]" for i in range(self.vocab - len(tokens))]
        end = len(alphabet) + len(merges)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.keys.get("pre", "llama-bpe"))
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
        writer.add_eot_token_id(end + 1)
        writer.add_add_bos_token(False)


def llama3_factors(head_dim, theta=500000.0, factor=8.0):
    frequency = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    turns = 8192 * frequency / (2 * np.pi)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def random_models(directory):
    for number, kind in enumerate(TYPES):
        path = directory / f"llama-{kind.name}.gguf"
        Random("llama", [kind], number).write(path, tied=number % 2 == 0)
        compare_package(Ours(path, directory / "a"), path, f"llama {kind.name}")
    mixed = {"llama": {}, "mistral": {}, "qwen2": {"pre": "qwen2"}, "qwen3": {"pre": "qwen2"},
             "granite": {"pre": "refact", "reals": {"embedding_scale": 12.0, "residual_scale": 0.22,
                                                    "logit_scale": 16.0, "attention.scale": 0.0078125}}}
    for number, (architecture, keys) in enumerate(mixed.items()):
        path = directory / f"{architecture}.gguf"
        Random(architecture, TYPES[number:] + TYPES[:number], 100 + number, **keys).write(path, alignment=64)
        for piece in 1 << 20, 4093, 3:
            compare_package(Ours(path, directory / "a", piece), path, f"{architecture} mixed, pieces of {piece}")
    path = directory / "biases.gguf"
    Random("llama", [T.Q8_0, T.BF16], 200, bias="llama-bias", factors=llama3_factors(64)).write(path)
    ours = Ours(path, directory / "a")
    compare_package(ours, path, "llama with biases")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}
    check(ours.config["rope_scaling"] == scaling and ours.config["attention_bias"] is True,
          "llama with biases and rope_freqs: config")
    old = directory / "old.gguf"
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    old.write_bytes(data)
    mine = Ours(old, directory / "b")
    check(mine.tensors == ours.tensors and mine.files == ours.files, "version 2 reads as version 3 does")
    check(Ours(directory / "granite.gguf", directory / "a").config | {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 16.0,
        "attention_multiplier": 0.0078125} == Ours(directory / "granite.gguf", directory / "a").config,
          "granite: multipliers")


def random_against_transformers(directory):
    # transformers 5.24 reads no granite, and no mistral either (gguf has no architecture of that name).
    for architecture in "llama", "qwen2", "qwen3":
        path = directory / f"{architecture}.gguf"
        ours = Ours(path, directory / "a")
        differing = compare_transformers(ours, path, architecture)
        # Members that transformers' translation leaves to the class's default, and ours states.
        for key in ("head_dim", "attention_bias", "mlp_bias"):
            differing.pop(key, None)
        check_same(differing, f"{architecture}: config equals transformers'")


# ---- tokenizers ----


def lines_of_text():
    found = [path for data in [os.environ.get("DATA")] if data for path in pathlib.Path(data).glob("wiki.test.raw*")]
    path = found[0] if found else ROOT / "README.md"
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return [line for line in lines if line][:4000] + [
        "", " ", "  two  spaces", "\ttab\n\nnewlines\r\n", "1234567 3.14 \uff12\uff13",
        "naïve café — “quotes” 漢字 かな 🙂", "<|im_start|>user\nHi<|im_end|>\n", "don't I'LL we've",
        "a\u0301 e\u0301", "x<s>y</s> <unk>", "\x00\x7f"]


def encode_all(tokenizer, lines):
    return [encoding.ids for encoding in tokenizer.encode_batch(lines)]


def compare_encodings(a, b, lines, what):
    left, right = encode_all(a, lines), encode_all(b, lines)
    wrong = [line for line, x, y in zip(lines, left, right) if x != y]
    check_same(wrong, f"{what}: {len(lines)} lines, {sum(map(len, left))} tokens")


def real_model(path, lines, directory):
    path = pathlib.Path(path).resolve()
    ours = Ours(path, directory / "real")
    compare_package(ours, path, path.name)
    check_same(compare_transformers(ours, path, path.name), f"{path.name}: config equals transformers'")
    home = directory / "home"
    home.mkdir()
    for name, data in ours.files.items():
        (home / name).write_bytes(data)
    mine = Tokenizer.from_str(ours.files["tokenizer.json"].decode())
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoTokenizer.from_pretrained(home)
    talk = [{"role": "user", "content": "Hi"}]
    prompts = [tokenizer.apply_chat_template(talk, tokenize=False) for tokenizer in (loaded, theirs)]
    check(prompts[0] == prompts[1], f"{path.name}: AutoTokenizer takes our directory, chat template equal")
    compare_encodings(loaded.backend_tokenizer, mine, lines, f"{path.name}: AutoTokenizer encodes as our tokenizer")
    # transformers 5.24 has no entry for the pre-tokenizer "smollm" and leaves digits together.
    compare_encodings(mine, theirs.backend_tokenizer, [line for line in lines if not any(map(str.isnumeric, line))],
                      f"{path.name}: tokenizer against transformers', without digits")
    if "TOKENIZER" in os.environ:
        reference = Tokenizer.from_file(os.environ["TOKENIZER"])
        compare_encodings(mine, reference, lines, f"{path.name}: tokenizer against the original")
        ids = encode_all(reference, lines)
        check(mine.decode_batch(ids) == reference.decode_batch(ids), f"{path.name}: decodes alike")
    else:
        check(True, f"{path.name}: tokenizer against the original", "TOKENIZER names none")


def sentencepiece(lines, directory):
    """The vocabulary of stories260K in a GGUF file, with SentencePiece's scores: 0, -1, -2, ... of merges."""
    reference = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    vocab = reference.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    scores = [-float(max(0, number - 259)) for number in range(len(tokens))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)

    class Pieces(Random):
        def add_tokenizer(self, writer):
            writer.add_tokenizer_model("llama")
            writer.add_token_list(tokens)
            writer.add_token_scores(scores)
            writer.add_token_types(kinds)
            for name, number in ("bos", 1), ("eos", 2), ("unknown", 0):
                writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)

    (directory / "pieces").mkdir()
    path = directory / "pieces" / "pieces.gguf"
    model = Pieces("llama", [T.Q4_0], 300)
    model.vocab = len(tokens)
    model.write(path)
    ours = Ours(path, directory / "a")
    mine = Tokenizer.from_str(ours.files["tokenizer.json"].decode())
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    merges = [json.loads(tokenizer.to_str())["model"]["merges"] for tokenizer in (mine, theirs, reference)]
    check(merges[0] == merges[1], f"stories260K: {len(merges[0])} derived merges equal transformers', order and all")
    check(sorted(merges[0]) == sorted(merges[2]), "stories260K: and are those of its tokenizer.json")
    compare_encodings(mine, reference, lines, "stories260K: tokenizer against its tokenizer.json")
    # transformers 5 puts no space before a text that begins with one, nor behind special tokens; sentencepiece,
    # llama.cpp and the older transformers do.
    compare_encodings(mine, theirs, [line.lstrip(" ") for line in lines if "<s>" not in line],
                      "stories260K: tokenizer against transformers', no leading spaces")


def pre_tokenizer_words(lines, directory):
    """Each expression against transformers' own for the same word."""
    for word in "llama-bpe", "llama3", "falcon3", "dbrx", "smaug-bpe", "qwen2", "deepseek-r1-qwen", "tekken":
        path = directory / "word.gguf"
        Random("llama", [T.Q4_0], 400, pre=word).write(path)
        tokenizer = json.loads(Ours(path, directory / "a").files["tokenizer.json"])
        Tokenizer.from_str(json.dumps(tokenizer))
        ours = tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        mine, theirs = (pre_tokenizers.Split(Regex(expression), "isolated")
                        for expression in (ours, GGUF_PRE_TOKENIZER_SPLITS[word]))
        check(all(mine.pre_tokenize_str(line) == theirs.pre_tokenize_str(line) for line in lines[-1000:]),
              f"pre-tokenizer {word}: splits as transformers' does")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        directory, lines = pathlib.Path(scratch), lines_of_text()
        random_models(directory)
        random_against_transformers(directory)
        pre_tokenizer_words(lines, directory)
        sentencepiece(lines, directory)
        if "SMOLLM2" in os.environ and os.path.isfile(os.environ["SMOLLM2"]):
            real_model(os.environ["SMOLLM2"], lines, directory)
        else:
            check(True, "SmolLM2", "SMOLLM2 names no GGUF file")
    finish()


if __name__ == "__main__":
    main()
