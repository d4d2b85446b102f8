"""The golden inputs, weights and outputs of `tests/golden/`, with NumPy alone.

No weights are stored: each tensor follows from its name in the published state_dict, so any width and depth has golden
weights too.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def wave(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """White noise at -20 dB, float32: the input of every golden output."""
    return (np.random.RandomState(seed).standard_normal(shape) * 0.1).astype(np.float32)


def names(arch: str) -> dict[str, tuple[int, ...]]:
    """Every state_dict name of a published model and its shape, in the model's order."""
    return {name: tuple(shape) for name, shape in json.loads((GOLDEN / f"names-{arch}.json").read_text()).items()}


def golden_state_dict(names: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 weights for any map of state_dict names to shapes; raises ValueError for a name that has no rule.

    `*.num_batches_tracked` counts steps and weighs nothing: it is left out.
    """
    return {
        name: _golden_tensor(name, tuple(shape))
        for name, shape in names.items()
        if not name.endswith(".num_batches_tracked")
    }


def forward_golden(arch: str) -> np.ndarray:
    """The published network's output for `wave(0, (1, 2, 44100))` in inference mode: (1, sources * 2, 44100)."""
    with np.load(GOLDEN / f"forward-{arch}.npz") as file:
        return file["output"]


def _golden_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 4:
        r *= math.sqrt(2 / ((shape[0] + shape[1]) * shape[2] * shape[3]))
    elif name.endswith(".running_mean"):
        r *= 0.1
    elif name.endswith(".running_var"):
        r = np.exp(0.2 * r)
    elif len(shape) == 1 and name.endswith(".weight"):
        r = 1 + 0.1 * r
    elif len(shape) == 1 and name.endswith(".bias"):
        r *= 0.1
    else:
        raise ValueError(f"no golden rule for the tensor {name!r} of shape {shape}")
    return r.astype(np.float32)
