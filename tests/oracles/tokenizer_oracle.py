#!/usr/bin/env python3
"""tokenizer_oracle.py - tokenize gives the ids and texts of the Python package tokenizers, without a difference. TAP.

Texts: generated ones (seeded; code points that Unicode 14 has assigned), and where DATA names a directory, WikiText-2's
test part (wiki.test.raw, also .xz) and instruction data (alpaca/, chat/, also in instruct.tar.xz) in it. Tokenizers:
stories260K's, ones made and trained here, and where TOKENIZER and GPT2 name them, a tokenizer.json (SmolLM2's) and a
directory with GPT-2's vocabulary and merges, each also with the pre-tokenizers of other families put onto it.
Written against tokenizers 0.23.3. NFC there knows the combining marks of Unicode 9; younger ones are left out."""
import glob
import json
import lzma
import os
import random
import subprocess
import tarfile
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

from shared.tap import BIN, check, finish # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TMP = os.environ.get("TMPDIR", "/tmp")
STORIES = os.path.join(ROOT, "pipelines", "models", "stories260K", "tokenizer.json")
DATA, TOKENIZER, GPT2 = (os.environ.get(name) for name in ("DATA", "TOKENIZER", "GPT2"))
COUNT = 10000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
          r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


# ---- texts ----

def pools():
    points = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    by = {}
    for c in points:
        by.setdefault(unicodedata.category(chr(c))[0], []).append(chr(c))
    return {
        "any": [chr(c) for c in points], "ascii": [chr(c) for c in range(128)], "control": by["C"],
        "mark": by["M"], "number": by["N"], "sign": by["P"] + by["S"], "letter": by["L"],
        "space": [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e",
                  "\u200b", "\ufeff",
                  "\x1c", "\x1d", "\x1e", "\x1f", "\u2028", "\u2029", "\x0b", "\x0c", " " * 17, "\n" * 9, "▁", "▁▁"],
        "han": [chr(c) for c in range(0x4E00, 0x9FF0)], "kana": [chr(c) for c in range(0x3041, 0x30FF)],
        "jamo": [chr(c) for c in range(0x1100, 0x1200)], "hangul": [chr(c) for c in range(0xAC00, 0xD7A4)],
        "latin": [chr(c) for c in range(0xC0, 0x250)],
        "emoji": ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "🤷🏿‍♂️", "😀", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"],
        "word": ["the", " The", "don't", "I'LL", " we've", "'ſ", "'S", "Hello", " world", "2024", " 3.14", "x_y", "foo()",
                 "…", "é", "é",
                 "ﬁ", "Å", "ǆ", "ß", "<0x41>", "<0x", "int main(void)\n{\n    return 0;\n}\n",
                 "https://a.b/c?d=1&e=2", "ABCdef", "１２３"],
        "special": ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_", " <s> ", "[X]",
                    " [X]  ", "a[X]b",                    "ñandu", "NEW", "xNEWx", "NEW.", "<|", "|>"],
    }


def generate(seed):
    draw, pool = random.Random(seed), pools()
    names = list(pool)
    for _ in range(COUNT):
        few = draw.sample(names, draw.choice([1, 2, 3, len(names)]))
        length = draw.choice([0, 1, 2, 3, 8, 20, 60, 200])
        yield "".join(draw.choice(pool[draw.choice(few)]) for _ in range(length))


def wiki():
    path = os.path.join(DATA, "wiki.test.raw")
    if os.path.exists(path):
        return open(path, encoding="utf-8", newline="").read()
    return lzma.open(path + ".xz", "rt", encoding="utf-8", newline="").read()


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)


def instruct():
    names = sorted(glob.glob(os.path.join(DATA, "alpaca", "*")) + glob.glob(os.path.join(DATA, "chat", "*")))
    contents = [open(name, encoding="utf-8").read() for name in names]
    if not names:
        archive = tarfile.open(os.path.join(DATA, "instruct.tar.xz"))
        contents = [archive.extractfile(m).read().decode() for m in archive.getmembers() if ".json" in m.name]
    for content in contents:
        try:
            values = [json.loads(content)]
        except json.JSONDecodeError:
            values = [json.loads(line) for line in content.splitlines() if line]
        for value in values:
            yield from strings_of(value)


# ---- tokenizers ----

def added(content, **flags):
    token = dict(id=0, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return {**token, **flags}


def changed(base, **parts):
    """A tokenizer.json with other parts; added tokens get the ids behind the vocabulary."""
    spec = json.loads(json.dumps(base))
    spec["model"].update(parts.pop("model", {}))
    more = parts.pop("more", [])
    spec.update(parts)
    for token in more:
        behind = max(len(spec["model"]["vocab"]), *[t["id"] + 1 for t in spec["added_tokens"]], 0)
        token["id"] = spec["model"]["vocab"].get(token["content"], behind)
        spec["added_tokens"].append(token)
    return spec


def split(*expressions, behavior="Isolated", invert=False):
    return [{"type": "Split", "pattern": {"Regex": e}, "behavior": behavior, "invert": invert} for e in expressions]


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def byte_level(regex, space=False):
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}


def template(base, name):
    token = {"id": name, "ids": [base["model"]["vocab"].get(name, 0)], "tokens": [name]}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [special, text, special],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {name: token}}


def families(base, name):
    """The pre-tokenizers of other families on a byte-level vocabulary."""
    first = next(iter(base["model"]["vocab"]))
    own = byte_level(False)
    odd = [added("[X]", lstrip=True), added("NEW", single_word=True, normalized=True),
           added("ñandu", rstrip=True, special=True), added("<|im_", normalized=True, special=True)]
    form = {"type": "NFC"}
    yield name, base
    yield f"{name}, GPT-2", changed(base, pre_tokenizer=byte_level(True))
    yield f"{name}, GPT-2 with a space before", changed(base, pre_tokenizer=byte_level(True, True))
    yield f"{name}, StarCoder", changed(base, pre_tokenizer=sequence({"type": "Digits", "individual_digits": True},
                                                                      byte_level(True)))
    yield f"{name}, digits together", changed(base, pre_tokenizer=sequence(
        {"type": "Digits", "individual_digits": False}, byte_level(True)))
    yield f"{name}, Llama 3", changed(base, pre_tokenizer=sequence(*split(LLAMA3), own), model={"ignore_merges": True},
                                      post_processor={"type": "Sequence", "processors": [own, template(base, first)]})
    yield f"{name}, Qwen 2", changed(base, normalizer=form, pre_tokenizer=sequence(*split(QWEN2), own))
    yield f"{name}, Tekken", changed(base, pre_tokenizer=sequence(*split(TEKKEN), own), model={"ignore_merges": True})
    yield f"{name}, DeepSeek", changed(base, pre_tokenizer=sequence(*split(*DEEPSEEK), own))
    yield f"{name}, added tokens of all kinds", changed(base, more=odd)
    yield f"{name}, added tokens behind NFC", changed(base, more=odd, normalizer=form)
    yield f"{name}, words by spaces", changed(base, pre_tokenizer=sequence({"type": "WhitespaceSplit"}, own))
    yield f"{name}, Digits behind ByteLevel", changed(base, pre_tokenizer=sequence(
        byte_level(True), {"type": "Digits", "individual_digits": False}, *split("[0-9][0-9][0-9]")))


def behaviors(base):
    for behavior in ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        for invert in (False, True):
            for expression in (r"\s+|\d", r"(?=[A-Z])", r"\w*", r"[\w']+", r"(?<=\p{Han})\W"):
                yield f"Split {expression} {behavior}{' inverted' * invert}", changed(base, pre_tokenizer=sequence(
                    *split(expression, behavior=behavior, invert=invert), byte_level(False)))


def trained(kind, lines):
    """A small one: byte-level, or SentencePiece's way with bytes to fall back to."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        return json.loads(tokenizer.to_str())
    pieces = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1500, special_tokens=pieces + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    spec["pre_tokenizer"] = None
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                        {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    return spec


def pieces(base):
    """Llama 2 and its like."""
    form = {"type": "Metaspace", "replacement": "▁", "split": False}
    no_bytes = {k: v for k, v in base["model"]["vocab"].items() if not (k.startswith("<0x") and k != "<0x41>")}
    yield "Llama 2", changed(base, post_processor=template(base, "<s>"))
    yield "Llama 2, tokens behind normalizers", changed(base, more=[
        added("NEW", normalized=True), added("[X]", rstrip=True)])
    yield "Llama 2, characters unknown, fused", changed(base, model={"vocab": no_bytes})
    yield "Llama 2, characters unknown, single", changed(base, model={"vocab": no_bytes, "fuse_unk": False})
    yield "Llama 2, characters left out", changed(base, model={"byte_fallback": False, "unk_token": None})
    for scheme in ("always", "first", "never"):
        for cut in (False, True):
            space = {**form, "prepend_scheme": scheme, "split": cut}
            name = f"Metaspace {scheme}{', split' * cut}"
            yield name, changed(base, normalizer=None, pre_tokenizer=space, decoder=space)
    yield "no decoder", changed(base, decoder=None)
    yield "Replace by an expression", changed(base, normalizer={"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})


# ---- comparing ----

def run(*arguments, data):
    command = [os.path.join(BIN, "tokenize"), *arguments]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def lines_of(output):
    return [json.loads(line) for line in output.split(b"\n")[:-1]]


def differ(ours, theirs, texts):
    """None, or the first difference."""
    if len(ours) != len(theirs):
        return f"{len(ours)} results, expected {len(theirs)}"
    for one, other, text in zip(ours, theirs, texts):
        if one != other:
            return f"{str(text)[:200]!r}: {str(one)[:300]!r}, expected {str(other)[:300]!r}"
    return None


def old_marks():
    """Characters that tokenizers' NFC treats otherwise than Unicode 14 does."""
    form, new = normalizers.NFC(), set()
    for c in range(0x300, 0x110000):
        if unicodedata.combining(chr(c)):
            for text in (f"a\u0315{chr(c)}\u0300", f"a\u05b0{chr(c)}\u0334", chr(c)):
                if form.normalize_str(text) != unicodedata.normalize("NFC", text):
                    new.add(ord(chr(c)))
    return new | {0x11930, 0x11935, 0x11938}


MARKS = dict.fromkeys(old_marks())


def compare(name, spec, kind, texts):
    path = os.path.join(TMP, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file, ensure_ascii=False)
    theirs = Tokenizer.from_file(path)
    if "NFC" in json.dumps(spec["normalizer"]):
        texts = [text.translate(MARKS) for text in texts]
    data = "".join(json.dumps(text) + "\n" for text in texts).encode()
    wanted = [e.ids for e in theirs.encode_batch(texts)]
    got = lines_of(run("--jsonl", "--json", path, data=data))
    wrong = differ(got, wanted, texts)
    if not wrong:
        plain = [e.ids for e in theirs.encode_batch(texts[:500], add_special_tokens=False)]
        head = b"".join(line + b"\n" for line in data.split(b"\n")[:len(texts[:500])])
        wrong = differ(lines_of(run("--jsonl", "--json", "--plain", path, data=head)), plain, texts)
    for skip in (False, True):
        if not wrong:
            back = theirs.decode_batch(wanted, skip_special_tokens=skip)
            ids = "".join(" ".join(map(str, one)) + "\n" for one in wanted).encode()
            more = ["--skip-special"] if skip else []
            wrong = differ(lines_of(run("--decode", "--lines", "--json", *more, path, data=ids)), back, wanted)
    if wrong:
        print(f"# {wrong}")
    check(not wrong, f"{name}: {kind}, {len(texts)} texts, {sum(map(len, wanted))} tokens and back")


def random_ids(name, spec):
    """Ids in any order: bytes that make no characters among them."""
    path = os.path.join(TMP, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file, ensure_ascii=False)
    theirs, draw = Tokenizer.from_file(path), random.Random(7)
    size = theirs.get_vocab_size()
    ids = [[draw.randrange(draw.choice([size, min(size, 300)])) for _ in range(draw.choice([0, 1, 2, 5, 40]))]
           for _ in range(3000)]
    data = "".join(json.dumps(one) + "\n" for one in ids).encode()
    wrong = differ(lines_of(run("--decode", "--lines", "--json", path, data=data)),
                   theirs.decode_batch(ids, skip_special_tokens=False), ids)
    if wrong:
        print(f"# {wrong}")
    check(not wrong, f"{name}: decoding of random ids")


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def gpt2():
    spec = trained("bytes", [])
    merges = open(os.path.join(GPT2, "gpt2_merges.txt"), encoding="utf-8").read().split("\n")
    vocab = load(os.path.join(GPT2, "gpt2_vocab.json"))
    token = added("<|endoftext|>", special=True, id=vocab["<|endoftext|>"])
    return changed(spec, added_tokens=[token], model={
        "vocab": vocab, "merges": [line for line in merges if line and not line.startswith("#version")]})


def main():
    paths = sorted(glob.glob(os.path.join(ROOT, "common", "*", "*.c"))) + [os.path.join(ROOT, "README.md")]
    source = [line for path in paths for line in open(path, encoding="utf-8")]
    generated = list(generate(11))
    bytes_base, pieces_base = trained("bytes", source), trained("pieces", source)
    sets = [("generated", generated)]
    if DATA:
        sets += [("WikiText-2", [wiki(), *wiki().split("\n")]), ("instruct", list(instruct()))]
    else:
        check(True, "data sets", skip="DATA names no directory")
    bases = [("trained here", bytes_base)]
    for name, found, made in (("SmolLM2", TOKENIZER, lambda: load(TOKENIZER)), ("GPT-2", GPT2, gpt2)):
        if found:
            bases.append((name, made()))
        else:
            check(True, name, skip=f"no {name} tokenizer is named")
    some = [("stories260K", load(STORIES))] + list(pieces(pieces_base))
    for name, base in bases:
        some += families(base, name)
    for name, spec in some:
        for kind, texts in sets[:1] if name.startswith("trained here,") else sets:
            compare(name, spec, kind, texts)
        random_ids(name, spec)
    for name, spec in behaviors(bytes_base):
        compare(name, spec, "generated", generated[:3000])
    finish()


main()
