#!/usr/bin/env python3
"""heal_oracle.py - training against PyTorch's autograd and AdamW in double precision: small Llama, Granite and Qwen3 models
cut into chains, low rank, packed, trellis-coded and turned matrices with residuals. All gradients of a batch, and the losses of 20 steps
of `heal`, which tests/cli/heal.bats holds to the numbers that --print shows. TAP. Written against transformers 5.24.0,
torch 2.15.0."""
import json
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers

from shared.tap import check, run, shell

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
import stream_python  # noqa: E402

DUMP = pathlib.Path(os.environ.get("B", ROOT / "build"), "tests", "oracles", "heal_dump")
MADE = ROOT / "tests" / "tools" / "heal_models.sh"
CASES = [("llama", "kl"), ("granite", "mix"), ("qwen3", "ce"), ("granite", "feature"), ("qwen3", "block")]
TOPS = {("llama", "kl"): 20, ("granite", "mix"): 100}        # and with so many of the teacher's logits
WEIGHTS = {"ce": 1, "mix": 0.3}      # of the cross entropy
RATE, WARMUP, STEPS, CONTEXT = 3e-3, 3, 20, 16
CORES, SCALES, NORMS, MATRICES = 1, 2, 8, 4
CLOSE = 1e-4
warnings.simplefilter("ignore", FutureWarning)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Operator(torch.nn.Module):
    """A sum of chains between turns: each core a parameter, or units with scales (and minima) that are."""

    def __init__(self, records, bias):
        super().__init__()
        self.bias = bias
        self.cores, self.units = {}, {}
        for r in records:
            where = tuple(r.get("term", [0])[:1] + r.get("site", [0])[:1])
            core = torch.tensor(stream_python.decode(r).astype("f8"))
            self.cores[where] = core if r["kind"] == "core" else core[None, :, :, None]
        first = next(r for r in records if r.get("term", [0])[0] == 0)
        self.turn_in, self.turn_out = self.turn(first.get("input"), 2), self.turn(first.get("output"), 1)

    def turn(self, about, axis):
        n = int(np.prod([core.shape[axis] for (term, _), core in self.cores.items() if term == 0]))
        if not about:
            return torch.eye(n, dtype=torch.float64)
        return torch.tensor(stream_python.transform(n, about["signs"], about["hadamard"], about.get("hartley", 1)))

    def train_values(self, where, values):
        assert np.allclose(self.cores[where].numpy().ravel(), values, atol=1e-7)
        self.cores[where] = torch.nn.Parameter(self.cores[where])
        return self.cores[where]

    def train_scales(self, where, numbers):
        """numbers: scales and, where there are, minima, each of all groups, row by row."""
        core = self.cores[where]
        rows = core.reshape(-1, [n for n in core.shape if n > 1][-1])
        parts = [torch.nn.Parameter(torch.tensor(n.astype("f8")).reshape(len(rows), -1)) for n in numbers]
        group = -(-rows.shape[1] // parts[0].shape[1])
        group = 1 << (group - 1).bit_length()        # the last one may be short

        def spread(x):
            return x.repeat_interleave(group, 1)[:, : rows.shape[1]]

        with torch.no_grad():
            units = (rows - (spread(parts[1]) if len(parts) > 1 else 0)) / spread(parts[0])
            units = (units * 64).round() / 64                    # of a trellis; codes are whole
        self.units[where] = (units, parts, spread, core.shape)
        assert torch.allclose(self.core(where), core, atol=1e-6)
        return parts

    def core(self, where):
        if where not in self.units:
            return self.cores[where]
        units, parts, spread, shape = self.units[where]
        w = spread(parts[0]) * units
        return (w + spread(parts[1]) if len(parts) > 1 else w).reshape(shape)

    def matrix(self):
        total = 0
        for term in sorted({t for t, _ in self.cores}):
            product = None
            for site in sorted(s for t, s in self.cores if t == term):
                core = self.core((term, site))
                if product is None:
                    product = core
                    continue
                product = torch.einsum("aoib,bpjc->aopijc", product, core)
                a, o, p, i, j, c = product.shape
                product = product.reshape(a, o * p, i * j, c)
            total = total + product[0, :, :, 0]
        return total

    def forward(self, x):
        return F.linear(x, self.turn_out.T @ self.matrix() @ self.turn_in, self.bias)


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64,
                                                             attn_implementation="eager").eval()


def student(cut):
    """transformers' model with our operators in place of its matrices, which nothing trains yet."""
    model = load("dense")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    records = {}
    with open(cut, "rb") as file:
        for r in stream_python.read_stream(file.read())[1]:
            records.setdefault(r["name"], []).append(r)
    operators = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and (name != "lm_head" or "lm_head.weight" in records):
            operators[name + ".weight"] = Operator(records[name + ".weight"], module.bias)
            parent, leaf = name.rsplit(".", 1) if "." in name else ("", name)
            setattr(model.get_submodule(parent), leaf, operators[name + ".weight"])
    return model, operators


def read_dump(path):
    with open(path, "rb") as file:
        while line := file.readline():
            about = json.loads(line)
            values, gradient = (np.frombuffer(file.read(4 * about["count"]), "<f4") for _ in range(2))
            yield about, values, gradient


def train(model, operators, dump, classes):
    """Makes what the dump has of these classes parameters; (name, our gradient, theirs) of each."""
    parameters, scales, own = [], {}, dict(model.named_parameters())
    for about, values, gradient in dump:
        if not about["class"] & classes:
            continue
        name, where = about["name"], (about["term"], about["site"])
        label = f"{name}.{where[0]}.{where[1]}.{about['which']}"
        if about["class"] == NORMS:
            own[name].requires_grad_(True)
            parameters.append((label, gradient, own[name]))
        elif about["which"] == 0:
            parameters.append((label, gradient, operators[name].train_values(where, values)))
        else:
            scales.setdefault((name, where), []).append((label, values, gradient))
    for (name, where), parts in scales.items():
        made = operators[name].train_scales(where, [values for _, values, _ in parts])
        parameters += [(label, gradient, part) for (label, _, gradient), part in zip(parts, made)]
    return parameters


def grouped(log_p, ids):
    """Logarithms of the probabilities of the ids, and of all others together."""
    others = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((log_p.gather(-1, ids), others), -1)


def states(model, x, layer=None, entering=None):
    """What leaves each layer, or what enters and leaves one of them, which gets something else where entering is given."""
    seen = []
    hooks = [module.register_forward_hook(lambda _module, _inputs, y: seen.append(y if torch.is_tensor(y) else y[0]))
             for module in model.model.layers]
    if layer is not None:
        def enter(_module, inputs):
            seen.append((inputs[0] if entering is None else entering).detach())
            return (seen[-1], *inputs[1:])
        hooks.append(model.model.layers[layer].register_forward_pre_hook(enter))
    model(x)
    for hook in hooks:
        hook.remove()
    return seen if layer is None else seen[layer:layer + 2]


def deviation(y, target):
    return ((y - target).square().sum(-1) / target.square().sum(-1)).sum()


def state_cost(model, teacher, layer, x):
    if layer is None:
        with torch.no_grad():
            targets = states(teacher, x)
        return sum(deviation(y, target) for y, target in zip(states(model, x), targets))
    entering, y = states(model, x, layer)
    with torch.no_grad():
        target = states(teacher, x, layer, entering)[1]
    return deviation(y, target)


def cost(model, teacher, kind, sequences, layer=0, top=None):
    """The sum of the losses over tokens that count, and their number."""
    total, count = 0, 0
    for ids in sequences:
        x = torch.tensor([ids])
        if kind in ("feature", "block"):
            total = total + state_cost(model, teacher, layer if kind == "block" else None, x)
            count += len(ids)
            continue
        logits = model(x).logits[0]
        if kind != "kl":
            logits = logits[:-1]
        count += len(logits)
        cross = divergence = 0
        if kind != "ce":
            with torch.no_grad():
                target = teacher(x).logits[0][: len(logits)].log_softmax(-1)
            ours = logits.log_softmax(-1)
            if top:
                ids = target.topk(top, -1).indices
                ours, target = grouped(ours, ids), grouped(target, ids)
            divergence = F.kl_div(ours, target, log_target=True, reduction="sum")
        if kind != "kl":
            cross = F.cross_entropy(logits, x[0, 1:], reduction="sum")
        weight = WEIGHTS.get(kind, 0)
        total = total + weight * cross + (1 - weight) * divergence
    return total, count


def dump(device, kind, memory):
    return subprocess.run([DUMP, device, "cut.tns", "-" if kind == "ce" else "dense", "ids", "dump", kind, str(memory)],
                          check=True, stdout=subprocess.PIPE).stdout.split()


def compare_gradients(family, kind, sequences, device, memory):
    with open("ids", "w", encoding="utf-8") as file:
        file.writelines(" ".join(map(str, sequence)) + "\n" for sequence in sequences)
    out = dump(device, kind, memory)
    model, operators = student("cut.tns")
    parameters = train(model, operators, read_dump("dump"), CORES | SCALES | NORMS | MATRICES)
    total, count = cost(model, load("dense"), kind, sequences)
    total.backward()
    weight = WEIGHTS.get(kind, 0)
    ours = weight * float(out[0]) + (1 - weight) * float(out[1])
    worst, name, kinds = 0, "", set()
    for label, gradient, parameter in parameters:
        theirs = parameter.grad.numpy().ravel()
        error = np.linalg.norm(gradient - theirs) / np.linalg.norm(theirs)
        if not error <= worst:
            worst, name = error, label
        kinds.add(label.split(".", 3)[-1])
    check(worst <= CLOSE and abs(ours - total.item() / count) <= 1e-6 * abs(ours) + 1e-7 and int(out[2]) == count,
          f"{family}, {kind}, {device}, memory {memory}: {len(parameters)} gradients")
    print(f"# loss {ours:.8f} and {total.item() / count:.8f}, worst gradient off by {worst:.2g} ({name})", flush=True)


def rate(step):
    return RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + np.cos(np.pi * step / STEPS))


def unit(label, parameter):
    """Of the rate: scales and minima have their root mean square."""
    return 1 if label.endswith(".0") else parameter.detach().square().mean().sqrt().item()


def theirs(kind, sequences, top):
    """Losses and norms of the gradient, of 20 steps, or of 20 for each block."""
    model, operators = student("cut.tns")
    if kind == "block":
        dump("cpu", "feature", 0)                    # of all blocks
    named = [(label, p) for label, _, p in train(model, operators, read_dump("dump"), CORES | SCALES | NORMS)]
    teacher, lines = load("dense"), []
    for layer in range(len(model.model.layers)) if kind == "block" else [None]:
        own = [(label, p) for label, p in named if layer is None or label.startswith(f"model.layers.{layer}.")]
        parameters = [p for _, p in own]
        groups = [{"params": [p], "unit": unit(label, p)} for label, p in own]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), weight_decay=0)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate(step) * group["unit"]
            total, count = cost(model, teacher, kind, sequences, layer, top)
            optimizer.zero_grad()
            (total / count).backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            lines.append((total.item() / count, norm.item()))
    return lines


def compare_steps(family, kind, print_them, top=None):
    name = f"{family}_{kind}" + (f"_{top}" if top else "")
    tokenizer = tokenizers.Tokenizer.from_file("dense/tokenizer.json")
    with open("text", encoding="utf-8") as file:
        ids = tokenizer.encode(file.read()).ids
    sequences = [ids[i: i + CONTEXT] for i in range(0, len(ids), CONTEXT)]
    expected = theirs(kind, sequences, top)
    if print_them:
        print(f"{name}='" + " ".join(f"{loss:.6f}" for loss, _ in expected) + "'")
    with open("log", encoding="utf-8") as file:
        got = [json.loads(line) for line in file]
    losses = max(abs(line["loss"] / loss - 1) for line, (loss, _) in zip(got, expected))
    norms = max(abs(line["gradient_norm"] / norm - 1) for line, (_, norm) in zip(got, expected))
    check(len(got) == len(expected) and losses <= CLOSE and norms <= 1e-3, f"{name}: {len(expected)} steps of heal")
    print(f"# {len(sequences)} windows, {expected[0][0]:.6f} to {expected[-1][0]:.6f}; losses off by {losses:.2g}, norms"
          f" by {norms:.2g}", flush=True)


def main():
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    for family, kind in CASES:
        shell(f"PYTHON={sys.executable} bash {MADE} {family} {kind}")
        sequences = [generator.integers(0, 512, n).tolist() for n in (17, 2, 40)]
        for device, memory in (("cpu", 0), ("cpu", 1 << 30), ("reference", 0)):
            compare_gradients(family, kind, sequences, device, memory)
        compare_steps(family, kind, "--print" in sys.argv)
        if top := TOPS.get((family, kind)):
            shell(f"PYTHON={sys.executable} bash {MADE} {family} {kind} {top}")
            compare_steps(family, kind, "--print" in sys.argv, top)


if __name__ == "__main__":
    run(main)
