"""halved - what the benches of healing start from: SmolLM2 at half its parameters in low rank, its dense self, a long text."""
import os
import subprocess

MODEL, BIN = os.environ.get("SMOLLM2"), os.environ.get("BIN", "bin")
BATCH, CONTEXT = 8, 256


def prepare(model):
    """`dense`, `cut.tns` and `text` in this directory."""
    subprocess.run([f"{BIN}/assemble", "-q", model, "--dense", "--dtype", "f32", "-o", "dense"], check=True)
    subprocess.run([f"{BIN}/mpo-decompose", "-q", "dense", "--keep", "0.5", "--dtype", "f32", "--force", "-o", "cut.tns"], check=True)
    with open("text", "w", encoding="utf-8") as file:
        file.write("The quick brown fox jumps over the lazy dog, and so on. " * 40000)
