#!/usr/bin/env python3
"""Steps of distillation, SmolLM2 at half its parameters in low rank, batches of 8 x 256 tokens, dense teacher, f32: heal
against PyTorch, the same number of threads.

    heal.py [--steps N] [--threads N] [--memory SIZE] [--products f32|bf16]

SMOLLM2 names the model (a GGUF file or a directory). Both take turns, step by step; medians of tokens per second, seconds
of processors, and the most memory. With bf16 products PyTorch has autocast to bf16. Skipped where torch, transformers or the model isn't there.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from shared.halved import BATCH, BIN, CONTEXT, MODEL, prepare

os.environ["HF_HUB_OFFLINE"] = "1"
if not MODEL:
    sys.exit(print("heal.py: SMOLLM2 names no model, nothing compared"))
try:
    import torch
    import torch.nn.functional as F
    import transformers
except ImportError:
    sys.exit(print("heal.py: torch or transformers isn't installed, nothing compared"))


class LowRank(torch.nn.Module):
    def __init__(self, out, width, rank):
        super().__init__()
        self.left = torch.nn.Parameter(torch.randn(out, rank) * 0.02)
        self.right = torch.nn.Parameter(torch.randn(rank, width) * 0.02)

    def forward(self, x):
        return F.linear(F.linear(x, self.right), self.left)


class Theirs:
    """One step of PyTorch's at a time, on random tokens."""

    def __init__(self, bf16):
        def load():
            model = transformers.AutoModelForCausalLM.from_pretrained("dense", dtype=torch.float32,
                                                                      attn_implementation="sdpa")
            return model.eval().requires_grad_(False)

        self.bf16, self.teacher, self.student = bf16, load(), load()
        for name, module in list(self.student.named_modules()):
            if isinstance(module, torch.nn.Linear) and ".layers." in name:
                out, width = module.weight.shape
                parent, leaf = name.rsplit(".", 1)
                setattr(self.student.get_submodule(parent), leaf, LowRank(out, width, out * width // 2 // (out + width)))
        for name, parameter in self.student.named_parameters():
            if "norm" in name:
                parameter.requires_grad_(True)
        self.trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3, weight_decay=0, betas=(0.9, 0.95))

    def step(self):
        ids = torch.randint(0, self.student.config.vocab_size, (BATCH, CONTEXT))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                teacher = self.teacher(ids).logits.float()
            student = self.student(ids).logits.float()
        loss = F.kl_div(F.log_softmax(student, -1).flatten(0, 1), F.log_softmax(teacher, -1).flatten(0, 1),
                        log_target=True, reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def ours(args, steps):
    """Seconds when each step of a run was done, processor seconds of all of it, and peak bytes."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([f"{BIN}/heal", "-q", "cut.tns", "text", "--teacher", "dense", "--steps", str(steps), "--batch", str(BATCH),
                    "--context", str(CONTEXT), "--threads", str(args.threads), "--memory", args.memory, "--products",
                    args.products, "--log", "log", "-o", "out.tns"], check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open("log", encoding="utf-8") as file:
        seconds = [json.loads(line)["seconds"] for line in file]
    return seconds, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime, end.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--products", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = os.path.abspath(MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        prepare(model)
        _, processors_single, memory = ours(args, 1)     # later this process is large, and its children seem as large
        theirs, mine, peer, processors, processors_peer = Theirs(args.products == "bf16"), [], [], [], []
        theirs.step()
        for _ in range(args.steps):
            seconds, used, _ = ours(args, 2)
            mine.append(seconds[1] - seconds[0])
            processors.append(used - processors_single)
            begin, cpu = time.monotonic(), time.process_time()
            theirs.step()
            peer.append(time.monotonic() - begin)
            processors_peer.append(time.process_time() - cpu)
        os.chdir("/")
    tokens, peak = BATCH * CONTEXT, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mine, peer = tokens / statistics.median(mine), tokens / statistics.median(peer)
    print(f"{args.products}: tokens/s: heal {mine:.0f}, PyTorch {peer:.0f}, ratio {mine / peer:.2f}; processor seconds a step: "
          f"{statistics.median(processors):.1f}, {statistics.median(processors_peer):.1f}; peak memory: {memory / 1e9:.2f} GB, "
          f"{peak / 1e9:.2f} GB, ratio {memory / peak:.2f}")


if __name__ == "__main__":
    main()
