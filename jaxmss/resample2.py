"""Twice the sample rate and back, inside a network: windowed-sinc filters of 24 zero crossings.

The design of the package julius, which Demucs was trained with: the sinc's cut-off lies at 0.945 of the lower Nyquist
frequency, its window is a squared cosine, and each phase of the filter is scaled to a sum of one. Past its ends the
signal goes on with its first and last sample.
"""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmss.typing import Array, Float

ZEROS = 24
ROLL_OFF = 0.945
ROW = 128  # samples that are filtered at once


def double_rate(x: Float[Array, "b t h"]) -> Float[Array, "b u h"]:
    """Interpolate each feature: ``u = 2 t``."""
    return _resample(x, 1, 2)


def halve_rate(x: Float[Array, "b t h"]) -> Float[Array, "b u h"]:
    """Low-pass and decimate each feature: ``u = t // 2``."""
    return _resample(x, 2, 1)[:, : x.shape[1] // 2]


def _resample(x: Float[Array, "b t h"], old: int, new: int) -> Float[Array, "b u h"]:
    """Filter each feature at every `old`-th sample; the outputs of the `new` filters take turns in time.

    As a product of rows of samples with one band matrix, in full precision.
    """
    b, length, features = x.shape
    width = (_kernel(old, new).shape[1] - old) // 2
    blocks = 1 + -(-2 * width // ROW)  # rows of samples that a row of outputs depends on
    outputs = -(-length // old)
    rows = -(-outputs * old // ROW)
    x = x.swapaxes(1, 2)
    # not padded with mode="edge", which cuts edges off the batch too: their gradient would cross between devices
    before = jnp.repeat(x[..., :1], width, axis=-1)
    after = jnp.repeat(x[..., -1:], (rows + blocks - 1) * ROW - length - width, axis=-1)
    x = jnp.concatenate([before, x, after], axis=-1)
    x = x.reshape(b, features, rows + blocks - 1, ROW)
    windows = jnp.concatenate([x[:, :, r : r + rows] for r in range(blocks)], axis=-1)
    filtered = jnp.matmul(windows, _band(old, new, blocks), precision=lax.Precision.HIGHEST)
    return filtered.reshape(b, features, -1)[..., : outputs * new].swapaxes(1, 2)


@functools.cache
def _band(old: int, new: int, blocks: int) -> Float[np.ndarray, "i o"]:
    """Return the matrix from the samples of a row and those after it to the row's outputs."""
    kernel = _kernel(old, new)
    band = np.zeros((blocks * ROW, ROW // old, new), np.float32)
    for output in range(ROW // old):
        band[output * old :][: kernel.shape[1], output] = kernel.T
    return band.reshape(blocks * ROW, -1)


@functools.cache
def _kernel(old: int, new: int) -> Float[np.ndarray, "p taps"]:
    """Return the filter of each output phase, from samples at rate `old` to samples at rate `new`."""
    cut_off = min(old, new) * ROLL_OFF
    width = math.ceil(ZEROS * old / cut_off)
    positions = np.arange(-width, width + old) / old - np.arange(new)[:, None] / new
    positions = np.clip(positions * cut_off, -ZEROS, ZEROS)
    kernel = np.sinc(positions) * np.cos(np.pi * positions / ZEROS / 2) ** 2
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
