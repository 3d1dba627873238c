#!/usr/bin/env python3
"""Streams read by python3-msgpack and numpy alone: FORMAT's examples, and matrices rebuilt from cores and packed codes. TAP."""
import ctypes
import ctypes.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

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


class Planes:
    """The planes of a payload one after the other: each begins at a multiple of 64 bytes and has so many bytes per row."""

    def __init__(self, payload, rows):
        self.payload, self.rows, self.at = payload, rows, 0

    def take(self, width):
        start = -(-self.at // 64) * 64
        self.at = start + self.rows * width
        assert self.at <= len(self.payload)
        return [self.payload[start + r * width: start + (r + 1) * width] for r in range(self.rows)]

    def integers(self, bits, count):
        return numpy.array([unpack_codes(row, bits, count) for row in self.take(-(-count * bits // 8))], "f4").reshape(self.rows, count)

    def halves(self, count):
        return numpy.frombuffer(b"".join(self.take(2 * count)), "<f2").reshape(self.rows, count).astype("f4")


def decode_groups(dtype, shape, payload):
    bits, group, zero, scale_bits = re.fullmatch(r"q(\d)-(\d+|row)-(none|int|min)(?:-s([68]))?", dtype).groups()
    bits, scale_bits = int(bits), int(scale_bits or 0)
    axes = list(shape)
    while len(axes) > 1 and axes[-1] == 1:
        axes.pop()
    length = axes[-1]
    planes = Planes(payload, int(numpy.prod(axes[:-1], dtype=int)))
    group = length if group == "row" else int(group)
    counts = [min(group, length - start) for start in range(0, length, group)]
    sizes = [-(-count * bits // 8) for count in counts]
    packed = planes.take(sum(sizes))
    groups, supers = len(counts), -(-len(counts) // 8)
    scale = planes.integers(scale_bits, groups) if scale_bits else planes.halves(groups)
    minimum, point = 0, 2 ** (bits - 1)
    if zero == "int":
        point = planes.integers(bits, groups)
    elif zero == "min":
        minimum = planes.integers(scale_bits, groups) if scale_bits else planes.halves(groups)
        point = 0
    if scale_bits:
        scale = scale * planes.halves(supers).repeat(8, axis=1)[:, :groups]
        if zero == "min":
            minimum = minimum * planes.halves(supers).repeat(8, axis=1)[:, :groups]
    assert planes.at == len(payload)
    edges = numpy.cumsum([0] + sizes)
    codes = numpy.array([numpy.concatenate([unpack_codes(row[edges[g]: edges[g + 1]], bits, counts[g]) for g in range(groups)])
                         for row in packed], "f4")

    def spread(numbers):
        return numpy.broadcast_to(numbers, (planes.rows, groups)).astype("f4").repeat(counts, axis=1)

    return (spread(scale) * (codes - spread(point)) + spread(minimum)).reshape(shape)


def format_text():
    with open(os.path.join(ROOT, "common", "stream", "FORMAT"), encoding="ascii") as file:
        return file.read()


def trellis_factors():
    """rate -> state bits -> factors, from the table of FORMAT."""
    table = re.search(r"^    RATE  ([\d ]+)\n((?:    [\d.]+ +[0-9a-f ]+\n){7})", format_text(), re.M)
    factors = {}
    for line in table[2].splitlines():
        rate, *words = line.split()
        each = 1 if float(rate) == int(float(rate)) else 2
        words = [int(word, 16) for word in words]
        cells = [words[i: i + each] for i in range(0, len(words), each)]
        factors[float(rate)] = dict(zip(map(int, table[1].split()), cells, strict=True))
    return factors


TRELLIS_FACTORS = trellis_factors()


def trellis_levels():
    quantiles = (96 * statistics.NormalDist().inv_cdf((k + 0.5) / 128) for k in range(128))
    return numpy.array([2 * round((q - 1) / 2) + 1 for q in quantiles], "f4")


def decode_trellis(dtype, shape, payload):
    rate, state_bits = re.fullmatch(r"t([\d.]+)-(\d+)", dtype).groups()
    rate, state_bits = float(rate), int(state_bits)
    step = 1 if rate == int(rate) else 2
    bits = int(rate * step)
    axes = list(shape)
    while len(axes) > 1 and axes[-1] == 1:
        axes.pop()
    rows, length = int(numpy.prod(axes[:-1], dtype=int)), axes[-1]
    matrix, at = numpy.empty((rows, length), "f4"), 0
    for top in range(0, rows, 16):
        for left in range(0, length, 16):
            height, width = min(16, rows - top), min(16, length - left)
            steps = -(-height * width // step)
            size = -(-steps * bits // 8)
            flat = numpy.unpackbits(numpy.frombuffer(payload[at: at + size], "u1"), bitorder="little")[: steps * bits].astype(int)
            at += size
            window = (numpy.arange(steps)[:, None] * bits + numpy.arange(state_bits)) % (steps * bits)
            states = (flat[window] << numpy.arange(state_bits)).sum(1)
            levels = states[:, None] * TRELLIS_FACTORS[rate][state_bits] % 2**state_bits >> (state_bits - 7)
            tile = trellis_levels()[levels].reshape(-1)[: height * width]
            matrix[top: top + height, left: left + width] = tile.reshape(width, height).T
    at = -(-at // 64) * 64
    scale = numpy.frombuffer(payload[at: at + 2 * rows], "<f2").astype("f4")
    assert at + 2 * rows == len(payload)
    return (matrix * (scale / 64)[:, None]).reshape(shape)


def decode(record):
    dtype, shape, payload = record["dtype"], record["shape"], record["payload"]
    if dtype == "bf16":
        return (numpy.frombuffer(payload, "<u2").astype("u4") << 16).view("f4").reshape(shape)
    if dtype in PLAIN:
        return numpy.frombuffer(payload, PLAIN[dtype]).reshape(shape)
    if dtype.startswith("t"):
        return decode_trellis(dtype, shape, payload)
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


def checksum(*parts):
    """XXH3 by the library itself: Python has no module for it that can be relied on."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash"))
    library.XXH3_64bits.restype = ctypes.c_uint64
    data = b"".join(parts)
    return library.XXH3_64bits(data, ctypes.c_size_t(len(data)))


def write_stream(header, records):
    """The bytes of a stream with right checksums, whatever its records say; "bytes" isn't looked at."""
    sums = [checksum(msgpack.packb(header))]
    data = bytearray(msgpack.packb(header) + b"\xcf" + sums[0].to_bytes(8, "big"))
    for record in records:
        record, payload = {k: v for k, v in record.items() if k != "payload"}, record["payload"]
        head = msgpack.packb(record)
        data += head
        pad = -(len(data) + 2 + 5) % 64
        data += b"\xc4" + bytes([pad]) + bytes(pad) + b"\xc6" + len(payload).to_bytes(4, "big") + payload
        sums.append(checksum(head, payload))
        data += b"\xcf" + sums[-1].to_bytes(8, "big")
    end = msgpack.packb({"kind": "end", "count": len(records)})
    last = checksum(*(s.to_bytes(8, "little") for s in sums), end)
    return bytes(data) + end + b"\xcf" + last.to_bytes(8, "big")


def splitmix(seed, k):
    z = (seed + (k + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def transform(n, signs, hadamard, hartley=1):
    """T [n, n], dense."""
    block = numpy.ones((1, 1))
    while len(block) < hadamard:
        block = numpy.block([[block, block], [block, -block]])
    sign = [-1 if splitmix(signs, i // 64) >> i % 64 & 1 else 1 for i in range(n)]
    angle = 2 * numpy.pi * numpy.outer(range(hartley), range(hartley)) / hartley
    mix = (numpy.cos(angle) + numpy.sin(angle)) / hartley**0.5
    return numpy.kron(numpy.eye(n // (hadamard * hartley)), numpy.kron(mix, block / hadamard**0.5)) * sign


def rebuild(records):
    """name -> matrix, from plain tensors and from the chains of cores."""
    weights, chains, turns = {}, {}, {}
    for r in records:
        if r["kind"] == "tensor":
            weights[r["name"]] = decode(r).astype("f4")
        elif r["kind"] == "core":
            chains.setdefault((r["name"], r["term"][0]), []).append(decode(r).astype("f8"))
            turns.setdefault(r["name"], (r.get("input"), r.get("output")))
    for (name, _), cores in chains.items():
        product = cores[0]
        for core in cores[1:]:
            product = numpy.einsum("aoib,bpjc->aopijc", product, core)
            a, o, p, i, j, c = product.shape
            product = product.reshape(a, o * p, i * j, c)
        weights[name] = weights.get(name, 0) + product[0, :, :, 0]
    for name, (turn_in, turn_out) in turns.items():
        if turn_in:
            weights[name] = weights[name] @ transform(weights[name].shape[1], **turn_in)
        if turn_out:
            weights[name] = transform(weights[name].shape[0], **turn_out).T @ weights[name]
    return weights


def run(sentence):
    environment = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"])
    return subprocess.run(["bash", "-o", "pipefail", "-c", sentence], check=True, stdout=subprocess.PIPE, env=environment).stdout


def test_bit_widths():
    examples = re.findall(r"bits (\d): codes ([\d ]+) -> ([0-9a-f ]+)", format_text())
    assert [e[0] for e in examples] == list("234568")
    for bits, codes, packed in examples:
        codes = [int(c) for c in codes.split()]
        assert list(unpack_codes(bytes.fromhex(packed), int(bits), len(codes))) == codes


def packed_example(dtype, shape, after):
    """The payload after these words of FORMAT, decoded, its size, and the number of planes."""
    text = format_text()
    text = text[text.index(after):].split(" in all")[0]
    planes = re.findall(r"^    (?:codes|scale|zero|factor) +((?:[0-9a-f]{2} ?)+?)(?: {2,}|$)", text, re.M)
    payload = b"".join(bytes.fromhex(plane).ljust(64, b"\0") for plane in planes[:-1]) + bytes.fromhex(planes[-1])
    return decode(dict(dtype=dtype, shape=shape, payload=payload)).tolist(), len(payload), len(planes)


def test_group_example():
    assert packed_example("q4-4-min", [5], 'A row of five in "q4-4-min"') == ([-4, 3.5, -1.5, 1, 1.75], 132, 3)


def test_super_example():
    assert packed_example("q4-4-min-s6", [5], "The same codes") == ([-4, 3.5, -1.5, 1, -0.25], 258, 5)


def test_trellis_example():
    assert packed_example("t2-8", [3, 2], "A matrix [3, 2]") == ([[-33, 57], [-28.5, -8.5], [45, 57]], 70, 2)
    assert packed_example("t2.5-8", [5], 'A row of five in "t2.5-8"') == ([-79, -139, 121, 61, 7], 66, 2)
    levels = re.search(r"level\[64\] to level\[127\]:\n((?: +[\d ]+\n)+)", format_text())[1].split()
    assert [int(level) for level in levels] == trellis_levels()[64:].tolist()
    assert (trellis_levels() == -trellis_levels()[::-1]).all()
    with open(os.path.join(ROOT, "common", "tensor", "trellis.c"), encoding="ascii") as file:
        table = re.search(r"trellis_factors.*?;", file.read(), re.S)[0]
    printed = [factor for states in TRELLIS_FACTORS.values() for factors in states.values() for factor in factors]
    assert [int(factor, 16) for factor in re.findall("0x[0-9a-f]+", table)] == printed


def test_transform_example():
    seed, block, word, signs, row = re.search(r'"input": \{"signs": (\d+), "hadamard": (\d+)\}: z\(0\) is (\w+), so S is'
                                              r" ([-\d ]+),\n.* W is ([-\d ]+)\.", format_text()).groups()
    turn = transform(4, int(seed), int(block))
    assert splitmix(int(seed), 0) == int(word, 16)
    assert (numpy.sign(turn[0]) == [int(s) for s in signs.split()]).all()
    assert ([1, 2, 3, 4] @ turn).tolist() == [int(w) for w in row.split()]
    assert numpy.allclose(turn @ turn.T, numpy.eye(4))


def test_two_sided_example():
    text = format_text()
    text = text[text.index("A core [1, 2, 6, 1]"):]
    rows = [[int(x) for x in row.split()] for row in re.search(r"holds ([\d ]+) and ([\d ]+), with", text).groups()]
    turn_in, turn_out = (json.loads(re.search(f'"{side}": ({{[^}}]*}})', text)[1]) for side in ("input", "output"))
    w = numpy.array([line.split() for line in re.search(r"W is\n(.*\n.*)\n", text)[1].split("\n")], dtype="f8")
    assert numpy.abs(transform(2, **turn_out).T @ numpy.array(rows) @ transform(6, **turn_in) - w).max() < 1e-6


def test_stream_example():
    lines = re.findall(r"^    ([0-9a-f]{3})  ((?:[0-9a-f]{2}(?: |$))+)", format_text(), re.M)
    data = b"".join(bytes.fromhex(h) for _, h in lines)
    _, records = read_stream(data)
    assert [r["name"] for r in records] == ["w"]
    assert decode(records[0]).tolist() == [1, -2]
    assert write_stream(*read_stream(data)) == data


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


def stored_tensors(directory):
    """name -> bytes of all tensors in a directory's safetensors files, and the maps of Lapidary's records."""
    tensors, maps = {}, []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        maps += json.loads(header.pop("__metadata__")["lapidary"])
        for key, entry in header.items():
            first, last = entry["data_offsets"]
            width = {"U8": 1, "F16": 2}.get(entry["dtype"])
            assert width is None or last - first == width * numpy.prod(entry["shape"], dtype=int), key
            tensors[key] = data[start + first: start + last]
    return tensors, maps


def test_directory(options, dtype, suffixes):
    """The planes that a directory holds, put together again, are the payloads of the stream's records of this dtype."""
    with tempfile.TemporaryDirectory() as folder:
        sentence = "extract-layer '%s' | quantize -q %s" % (MODEL, options)
        _, records = read_stream(run(sentence))
        run(sentence + " | assemble -q -o '%s/model'" % folder)
        tensors, maps = stored_tensors(folder + "/model")
    payloads = {r["name"]: r["payload"] for r in records}
    maps = [record for record in maps if record["dtype"] == dtype]
    assert len(maps) > 30
    for record in maps:
        planes = [tensors[record["name"] + suffix] for suffix in suffixes]
        joined = b"".join(plane + bytes(-len(plane) % 64) for plane in planes[:-1]) + planes[-1]
        assert joined == payloads[record["name"]], record["name"]


def main():
    extract = "extract-layer '%s'" % MODEL
    tests = [("codes of each bit width as FORMAT shows them", test_bit_widths),
             ("the group example of FORMAT", test_group_example),
             ("the trellis examples of FORMAT", test_trellis_example),
             ("the transform example of FORMAT", test_transform_example),
             ("the example with transforms on both sides", test_two_sided_example),
             ("the example with integer scales", test_super_example),
             ("the stream example of FORMAT, byte by byte", test_stream_example),
             ("matrices from two cores", lambda: test_rebuild(extract + " | mpo-decompose -q --chi 16", 1e-5)),
             ("matrices from three cores of f32", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 12 --sites 3 --force --dtype f32", 1e-5)),
             ("matrices from packed cores", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 16 | quantize -q --bits 6 --group row", 1e-5)),
             ("packed matrices behind transforms", lambda: test_rebuild(
                 extract + " | quantize -q --bits 4 --group 32 --rotate", 1e-6)),
             ("packed matrices between transforms of the whole widths", lambda: test_rebuild(
                 extract + " | quantize -q --bits 4 --group 32 --rotate=full --seed 3", 2e-6)),
             ("packed cores between transforms of the whole widths", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 16 | quantize -q --bits 4 --group 16 --rotate=full", 1e-5)),
             ("packed cores behind transforms", lambda: test_rebuild(
                 extract + " | mpo-decompose -q --chi 16 | quantize -q --bits 4 --group 16 --rotate=16 --seed 7", 1e-5))]
    for bits in (2, 3, 4, 5, 6, 8):
        for zero in ("none", "int", "min"):
            tests.append(("packed matrices, %d bits, %s" % (bits, zero), lambda b=bits, z=zero: test_rebuild(
                extract + " | quantize -q --bits %d --group 48 --zero %s --embedding-bits %d" % (b, z, b), 1e-7)))
    for bits, zero, scale in (2, "none", 6), (3, "int", 8), (3, "min", 6), (8, "min", 8):
        options = "--bits %d --group 16 --zero %s --scale-bits %d --embedding-bits %d" % (bits, zero, scale, bits)
        tests.append(("integer scales, %d bits, %s, %d bits" % (bits, zero, scale),
                      lambda o=options: test_rebuild("%s | quantize -q %s" % (extract, o), 1e-7)))
    for rate, state in (1, 12), (1.5, 8), (2, 12), (2.5, 11), (3, 10), (3.5, 8), (4, 9):
        tests.append(("trellis codes, rate %g, state %d" % (rate, state), lambda r=rate, b=state: test_rebuild(
            "%s | quantize -q --code trellis --rate %g --state %d" % (extract, r, b), 1e-7)))
    tests.append(("trellis codes of cores behind transforms", lambda: test_rebuild(
        extract + " | mpo-decompose -q --chi 12 --force | quantize -q --code trellis --rate 4 --state 8 --rotate=16", 1e-5)))
    tests += [("planes of trellis codes", lambda: test_directory(
                  "--code trellis --rate 2.5", "t2.5-12", (".codes", ".scale"))),
              ("planes of a directory", lambda: test_directory(
                  "--bits 3 --group 16", "q3-16-min", (".codes", ".scale", ".minimum"))),
              ("planes with integer scales and zero points", lambda: test_directory(
                  "--bits 3 --group 16 --zero int --scale-bits 6", "q3-16-int-s6", (".codes", ".scale", ".zero_point", ".scale_factor"))),
              ("planes with integer scales and minima", lambda: test_directory(
                  "--bits 3 --group 16 --scale-bits 8", "q3-16-min-s8",
                  (".codes", ".scale", ".minimum", ".scale_factor", ".minimum_factor")))]
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
