"""A full-size checkpoint of random f16 weights under the original names, for benchmarks: its pictures are noise.

    python3 tests/bench/random_checkpoint.py OUT.safetensors [sd15 | sd21 | sdxl]

Names and shapes are those of the real checkpoint (fixtures/keys). Weights are scaled so that activations stay O(1):
norms one, biases zero, the others normal with variance 0.5 / fan-in.
"""

import gzip
import json
import struct
import sys
from math import prod
from pathlib import Path

import numpy as np

KEYS = Path(__file__).parents[2] / "fixtures" / "keys"


def values(name, shape, random):
    """The tensor as f16."""
    if len(shape) == 1:
        return np.full(shape, 1 if name.endswith("weight") else 0, "f2")
    scale = 0.02 if "embed" in name else 0.7 / prod(shape[1:]) ** 0.5
    return (random.standard_normal(shape, dtype="f4") * scale).astype("f2")


def main(path, family="sd15"):
    with gzip.open(KEYS / f"{family}.json.gz") as file:
        shapes = json.load(file)["original"]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(values(name, shape, random).tobytes())
    print(f"{path}: {len(shapes)} tensors, {end / 1e9:.2f} GB")


main(*sys.argv[1:])
