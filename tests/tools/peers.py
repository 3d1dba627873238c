#!/usr/bin/env python3
"""What GPTQ (GPTQModel) and HQQ, the Python packages, make of a model on a CPU: each result as a Hugging Face directory with
the weights that its codes stand for, so that `evaluate` measures all alike, and a line of JSON with the bits counted from
what they store (codes, scales, zero points; HQQ's in 16 bits).

    peers.py MODEL CALIBRATION OUT gptq-2-32 gptq-3-128 hqq-2-64 ...      (METHOD-BITS-GROUP)

Needs torch, transformers, and gptqmodel or hqq. MODEL is a Hugging Face directory in f32, CALIBRATION a text of which
GPTQ gets the first 64 windows of 1024 tokens."""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOWS, CONTEXT = 64, 1024


def calibration(model, text):
    tokenizer = AutoTokenizer.from_pretrained(model)
    with open(text, encoding="utf-8") as file:
        ids = tokenizer.encode(file.read(8 * WINDOWS * CONTEXT + 100000))[: WINDOWS * CONTEXT]
    return [{"input_ids": ids[i : i + CONTEXT], "attention_mask": [1] * CONTEXT} for i in range(0, len(ids), CONTEXT)]


def gptq(model, text, bits, group, work):
    """Activation order, asymmetric, otherwise the package's own choices: it calibrates block by block."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")     # its loader asks for two; by default it has half the cores
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=bits, group_size=group, desc_act=True, sym=False)
    quantizer = GPTQModel.load(model, config, device="cpu", dtype=torch.float32)
    quantizer.quantize(calibration(model, text), batch_size=4)
    quantizer.save(work)
    packed = GPTQModel.load(work, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    weights = {}
    for name, module in packed.model.named_modules():
        if hasattr(module, "dequantize_weight"):
            weights[name + ".weight"] = module.dequantize_weight().detach().float().T.contiguous()
    return weights, bits + (16 + bits) / group


def hqq(model, bits, group):
    from hqq.core.quantize import Quantizer

    weights = {}
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for name, module in dense.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            codes, meta = Quantizer.quantize(module.weight.data, nbits=bits, group_size=group, axis=1, device="cpu",
                                             compute_dtype=torch.float32, optimize=True)
            for key in ("scale", "zero"):
                meta[key] = meta[key].half().float()
            weights[name + ".weight"] = Quantizer.dequantize(codes, meta).float()
    return weights, bits + 32 / group


def main(model, text, out, *methods):
    for method in methods:
        kind, bits, group = method.split("-")
        bits, group = int(bits), int(group)
        path = os.path.join(out, method)
        weights, bpw = gptq(model, text, bits, group, path + "-packed") if kind == "gptq" else hqq(model, bits, group)
        dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        state = dense.state_dict()
        for name, weight in weights.items():
            state[name].copy_(weight)
        dense.save_pretrained(path)
        AutoTokenizer.from_pretrained(model).save_pretrained(path)
        print(json.dumps({"name": method, "bpw_linear": bpw, "matrices": len(weights), "model": path}), flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
