#!/usr/bin/env python3
"""generate.py - token generation beside llama.cpp's: 4-bit and 8-bit groups of 32 in all matrices, embedding and head
among them, int8 activations, the same weights, threads and prompt. Medians of interleaved runs.

SMOLLM2 names SmolLM2's GGUF file, from which llama.cpp makes its Q4_0 and Q8_0. RUNS (7), TOKENS (128), THREADS (2).
Speed is that of the tokens behind the prompt, the choice of each among it. Written against llama-cpp-python 0.3.36."""
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BIN", os.path.join(ROOT, "bin"))
MODEL = os.environ.get("SMOLLM2", "")
RUNS, TOKENS, THREADS = (int(os.environ.get(name, value)) for name, value in
                         (("RUNS", 7), ("TOKENS", 128), ("THREADS", 2)))
PROMPT = ("The history of the city begins with a small settlement on the river, where merchants from the north met the "
          "farmers of the plain. In the following centuries")


def make_ours(bits):
    subprocess.run(f"'{BIN}/quantize' -q --bits {bits} --group 32 --zero none --match '*' '{MODEL}' | "
                   f"'{BIN}/assemble' -q -o q{bits}", shell=True, check=True)
    return f"q{bits}"


def make_theirs(llama, bits):
    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0 if bits == 4 else llama.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    params.pure = True
    params.nthread = THREADS
    path = f"q{bits}.gguf"
    if llama.llama_model_quantize(MODEL.encode(), path.encode(), ctypes.byref(params)):
        sys.exit("llama.cpp cannot quantize")
    return path


def types_of(path):
    """The types of a GGUF file's matrices."""
    import gguf
    return sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) > 1})


class Peer:
    def __init__(self, llama, path):
        self.llama = llama
        params = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(path.encode(), params)
        params = llama.llama_context_default_params()
        params.n_ctx = 1024
        params.n_threads = params.n_threads_batch = THREADS
        self.context = llama.llama_init_from_model(self.model, params)
        self.sampler = llama.llama_sampler_init_greedy()
        vocab = llama.llama_model_get_vocab(self.model)
        text = PROMPT.encode()
        self.prompt = (llama.llama_token * 512)()
        self.n_prompt = llama.llama_tokenize(vocab, text, len(text), self.prompt, 512, True, True)

    def run(self):
        """Tokens per second of the prompt and behind it."""
        llama = self.llama
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        token = (llama.llama_token * 1)()
        started = time.perf_counter()
        llama.llama_decode(self.context, llama.llama_batch_get_one(self.prompt, self.n_prompt))
        token[0] = llama.llama_sampler_sample(self.sampler, self.context, -1)
        ready = time.perf_counter()
        for _ in range(TOKENS - 1):
            llama.llama_decode(self.context, llama.llama_batch_get_one(token, 1))
            token[0] = llama.llama_sampler_sample(self.sampler, self.context, -1)
        ended = time.perf_counter()
        return self.n_prompt / (ready - started), (TOKENS - 1) / (ended - ready)


def run_ours(path):
    run = subprocess.run([f"{BIN}/generate", path, "-p", PROMPT, "--max-tokens", str(TOKENS), "--threads", str(THREADS),
                          "--activations", "int8", "--json"], check=True, capture_output=True)
    line = json.loads(run.stdout)
    if line["generated_tokens"] != TOKENS:
        print(f"# {path}: the text ended after {line['generated_tokens']} tokens")
    return line["prompt_tokens_per_second"], line["generated_tokens_per_second"]


def main():
    try:
        import llama_cpp
    except ImportError:
        print("1..0 # SKIP no llama-cpp-python")
        return
    if not os.path.isfile(MODEL):
        print("1..0 # SKIP SMOLLM2 names no GGUF file")
        return
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    print(f"# llama.cpp: {llama_cpp.llama_print_system_info().decode().strip()}")
    for bits in (4, 8):
        ours, theirs = make_ours(bits), make_theirs(llama_cpp, bits)
        peer = Peer(llama_cpp, theirs)
        print(f"# {theirs}: {' '.join(types_of(theirs))}")
        pairs = [(run_ours(ours), peer.run()) for _ in range(RUNS + 1)][1:]
        for kind, what in ((0, "prompt"), (1, "generated")):
            mine, its = ([pair[side][kind] for pair in pairs] for side in (0, 1))
            ratio = statistics.median(a / b for a, b in zip(mine, its))
            print(f"{bits} bits, {what}: {statistics.median(mine):.1f} tokens/s, llama.cpp {statistics.median(its):.1f}"
                  f", ratio {ratio:.2f} ({min(a / b for a, b in zip(mine, its)):.2f} to "
                  f"{max(a / b for a, b in zip(mine, its)):.2f})", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        MODEL = os.path.abspath(MODEL) if MODEL else MODEL
        os.chdir(scratch)
        main()
        os.chdir("/")
