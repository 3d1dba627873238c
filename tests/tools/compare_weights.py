#!/usr/bin/env python3
"""compare_weights.py A B - exits 0 where two checkpoints hold the same tensors: names, dtypes, shapes and every bit.

Reads safetensors by itself (numpy only), so that a mistake of ours in reading can't hide one in writing."""
import json
import os
import struct
import sys

import numpy as np


def read_file(path):
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        assert length % 8 == 0, f"{path}: the data is not aligned"
        header = json.loads(file.read(length))
        data = np.fromfile(file, dtype=np.uint8)
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, next_end = entry["data_offsets"]
        assert begin == end, f"{path}: {name}: a hole or an overlap"
        end = next_end
        yield name, (entry["dtype"], entry["shape"], data[begin:end])
    assert end == data.size, f"{path}: bytes behind the last tensor"


def read_model(path):
    index = f"{path}/model.safetensors.index.json"
    if not os.path.exists(index):
        return dict(read_file(f"{path}/model.safetensors"))
    with open(index, encoding="utf-8") as file:
        index = json.load(file)
    weights = {}
    for shard in sorted(set(index["weight_map"].values())):
        for name, value in read_file(f"{path}/{shard}"):
            assert index["weight_map"][name] == shard, f"{name} is not in {shard}"
            weights[name] = value
    assert weights.keys() == index["weight_map"].keys(), "the index and the shards differ"
    assert index["metadata"]["total_size"] == sum(value[2].size for value in weights.values()), "total_size is wrong"
    return weights


def main():
    a, b = (read_model(path) for path in sys.argv[1:])
    trouble = [f"only in one: {name}" for name in sorted(a.keys() ^ b.keys())]
    for name in a.keys() & b.keys():
        if a[name][:2] != b[name][:2]:
            trouble.append(f"{name}: {a[name][:2]} and {b[name][:2]}")
        elif not np.array_equal(a[name][2], b[name][2]):
            trouble.append(f"{name}: other bytes")
    print("\n".join(trouble), end="\n" if trouble else "")
    return 1 if trouble else 0


sys.exit(main())
