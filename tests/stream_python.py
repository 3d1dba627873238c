#!/usr/bin/env python3
"""Streams read by python3-msgpack and numpy alone: FORMAT's examples, and matrices rebuilt from cores and packed codes. TAP."""
import os
import re
import subprocess
import sys

import msgpack
import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("BIN", os.path.join(ROOT, "bin"))
MODEL = os.path.join(ROOT, "pipelines", "models", "stories260K")
PLAIN = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "u8": "u1", "i8": "i1", "i16": "<i2", "i32": "<i4", "i64": "<i8", "bool": "u1"}


def unpack_codes(data, bits, count):
    """count codes of `bits` bits from bytes, lowest bits first."""
    flat = numpy.unpackbits(numpy.frombuffer(data, "u1"), bitorder="little")[: count * bits]
    return (flat.reshape(count, bits).astype(int) << numpy.arange(bits)).sum(1)


def decode_groups(dtype, shape, payload):
    bits, group, zero = re.fullmatch(r"q(\d)-(\d+|row)-(none|int|min)", dtype).groups()
    bits = int(bits)
    axes = list(shape)
    while len(axes) > 1 and axes[-1] == 1:
        axes.pop()
    length = axes[-1]
    rows = int(numpy.prod(axes[:-1], dtype=int))
    group = length if group == "row" else int(group)
    starts = range(0, length, group)
    sizes = [(min(group, length - s) * bits + 7) // 8 for s in starts]
    scale_at = -(-rows * sum(sizes) // 64) * 64
    scale = numpy.frombuffer(payload, "<f2", rows * len(sizes), scale_at).reshape(rows, -1).astype("f4")
    zero_at = -(-(scale_at + scale.size * 2) // 64) * 64
    out = numpy.empty((rows, length), "f4")
    for r in range(rows):
        at = r * sum(sizes)
        if zero == "int":
            width = (len(sizes) * bits + 7) // 8
            points = unpack_codes(payload[zero_at + r * width: zero_at + (r + 1) * width], bits, len(sizes))
        elif zero == "min":
            points = numpy.frombuffer(payload, "<f2", len(sizes), zero_at + r * len(sizes) * 2).astype("f4")
        for g, start in enumerate(starts):
            count = min(group, length - start)
            codes = unpack_codes(payload[at: at + sizes[g]], bits, count)
            at += sizes[g]
            if zero == "min":
                out[r, start:start + count] = scale[r, g] * codes.astype("f4") + points[g]
            else:
                offset = points[g] if zero == "int" else 2 ** (bits - 1)
                out[r, start:start + count] = scale[r, g] * (codes - offset).astype("f4")
    return out.reshape(shape)


def decode(record):
    dtype, shape, payload = record["dtype"], record["shape"], record["payload"]
    if dtype == "bf16":
        return (numpy.frombuffer(payload, "<u2").astype("u4") << 16).view("f4").reshape(shape)
    if dtype in PLAIN:
        return numpy.frombuffer(payload, PLAIN[dtype]).reshape(shape)
    return decode_groups(dtype, shape, payload)


def read_stream(data):
    """Header and records of a stream; payloads of several bins are joined."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    header, _ = unpacker.unpack(), unpacker.unpack()
    records = []
    while True:
        record = unpacker.unpack()
        if record["kind"] == "end":
            assert record["count"] == len(records)
            unpacker.unpack()
            return header, records
        pad = unpacker.unpack()
        assert pad == bytes(len(pad))
        payload = b""
        while not isinstance(item := unpacker.unpack(), int):
            payload += item
        assert len(payload) == record["bytes"], record["name"]
        records.append(dict(record, payload=payload))


def rebuild(records):
    """name -> matrix, from plain tensors and from the chains of cores."""
    weights, chains = {}, {}
    for r in records:
        if r["kind"] == "tensor":
            weights[r["name"]] = decode(r).astype("f4")
        elif r["kind"] == "core":
            chains.setdefault((r["name"], r["term"][0]), []).append(decode(r).astype("f8"))
    for (name, _), cores in chains.items():
        product = cores[0]
        for core in cores[1:]:
            product = numpy.einsum("aoib,bpjc->aopijc", product, core)
            a, o, p, i, j, c = product.shape
            product = product.reshape(a, o * p, i * j, c)
        weights[name] = weights.get(name, 0) + product[0, :, :, 0]
    return weights


def run(sentence):
    environment = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"])
    return subprocess.run(["bash", "-o", "pipefail", "-c", sentence], check=True, stdout=subprocess.PIPE, env=environment).stdout


def format_text():
    with open(os.path.join(ROOT, "common", "stream", "FORMAT"), encoding="ascii") as file:
        return file.read()


def test_bit_widths():
    examples = re.findall(r"bits (\d): codes ([\d ]+) -> ([0-9a-f ]+)", format_text())
    assert [e[0] for e in examples] == list("234568")
    for bits, codes, packed in examples:
        codes = [int(c) for c in codes.split()]
        assert list(unpack_codes(bytes.fromhex(packed), int(bits), len(codes))) == codes


def test_group_example():
    text = format_text()
    planes = [bytes.fromhex(re.search(r"^    %s +((?:[0-9a-f]{2} )+) " % name, text, re.M)[1]) for name in ("codes", "scale", "zero")]
    payload = planes[0].ljust(64, b"\0") + planes[1].ljust(64, b"\0") + planes[2]
    assert len(payload) == 132
    assert decode_groups("q4-4-min", [5], payload).tolist() == [-4, 3.5, -1.5, 1, 1.75]


def test_stream_example():
    lines = re.findall(r"^    ([0-9a-f]{3})  ((?:[0-9a-f]{2}(?: |$))+)", format_text(), re.M)
    data = b"".join(bytes.fromhex(h) for _, h in lines)
    _, records = read_stream(data)
    assert [r["name"] for r in records] == ["w"]
    assert decode(records[0]).tolist() == [1, -2]


def test_rebuild(sentence, bound):
    """The stream and its contraction by mpo-contract agree."""
    _, records = read_stream(run(sentence))
    _, dense = read_stream(run(sentence + " | mpo-contract"))
    ours, theirs = rebuild(records), rebuild(dense)
    assert ours.keys() == theirs.keys() and len(ours) > 40
    assert any(r["kind"] == "core" for r in records) or "quantize" in sentence
    for name, matrix in theirs.items():
        error = numpy.linalg.norm(ours[name] - matrix) / max(numpy.linalg.norm(matrix), 1e-30)
        assert error <= bound, (name, error)


def main():
    extract = "extract-layer '%s'" % MODEL
    tests = [("codes of each bit width as FORMAT shows them", test_bit_widths),
             ("the group example of FORMAT", test_group_example),
             ("the stream example of FORMAT, byte by byte", test_stream_example),
             ("matrices from two cores", lambda: test_rebuild(extract + " | mpo-decompose -q --chi 16", 1e-5)),
             ("matrices from three cores of f32", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 12 --sites 3 --force --dtype f32", 1e-5)),
             ("matrices from packed cores", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 16 | quantize -q --bits 6 --group row", 1e-5))]
    for bits in (2, 3, 4, 5, 6, 8):
        for zero in ("none", "int", "min"):
            tests.append(("packed matrices, %d bits, %s" % (bits, zero), lambda b=bits, z=zero: test_rebuild(
                extract + " | quantize -q --bits %d --group 48 --zero %s --embedding-bits %d" % (b, z, b), 1e-7)))
    failed = 0
    print("1..%d" % len(tests))
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
            print("ok %d - %s" % (number, name), flush=True)
        except Exception as error:  # any failure is the test's verdict
            failed += 1
            print("not ok %d - %s\n# %s: %s" % (number, name, type(error).__name__, error), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
