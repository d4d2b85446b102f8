"""Subbands and back: the near-perfect filter banks of CWS-PResUNet, 2, 4 or 8 bands of equal width.

Liu et al., "Channel-wise Subband Input for Better Voice and Accompaniment Separation", Interspeech 2020. Analysis and
synthesis are both polyphase: a filter of 64 taps over samples is one of ``64 / s`` taps over blocks of `s` samples,
with the `s` samples of a block as its input features. The chain has no delay. Its error is the filters' own:
about -122, -107 and -70 dB for 2, 4 and 8 subbands.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmss.errors import InputError
from jaxmss.typing import Array, Float

TAPS = 64  # of every filter; also the tail that a filter still rings after its last sample
ROW = 128  # samples that are filtered at once
SUBBANDS = (1, 2, 4, 8)


def analyze(audio: Float[Array, "*b t"], subbands: int, tail_padding: bool = False) -> Float[Array, "*b s k"]:
    """Split audio into `subbands` bands, each at ``1 / subbands`` of the rate.

    Zeros follow the last sample as far as the last block needs them: ``k = ceil(t / subbands)``. With `tail_padding`
    another 64 follow, which makes the synthesis exact to its last sample; without it the last 63 are not.
    One subband is the audio itself. Raises `InputError` for other numbers of subbands than 1, 2, 4 and 8.
    """
    audio = jnp.asarray(audio, jnp.float32)
    if _checked(subbands) == 1:
        return audio[..., None, :]
    length = audio.shape[-1] + (TAPS if tail_padding else 0)
    blocks = -(-length // subbands)
    audio = _pad_or_cut(audio, blocks * subbands)
    phases = audio.reshape(*audio.shape[:-1], blocks, subbands)
    return jnp.swapaxes(_filter(phases, _analysis_kernel(subbands), causal=True), -1, -2)


def synthesize(
    signals: Float[Array, "*b s k"], length: int | None = None, tail_padding: bool = False
) -> Float[Array, "*b t"]:
    """Merge subbands into audio: the inverse of `analyze` with the same `tail_padding`.

    `length` cuts the audio, or appends zeros to it; the default is all that the subbands hold but the padding.
    """
    signals = jnp.asarray(signals, jnp.float32)
    subbands, blocks = signals.shape[-2:]
    if _checked(subbands) == 1:
        audio = signals[..., 0, :]
    else:
        phases = _filter(jnp.swapaxes(signals, -1, -2), _synthesis_kernel(subbands), causal=False)
        audio = phases.reshape(*phases.shape[:-2], blocks * subbands)
        if length is None and tail_padding:
            length = max(blocks * subbands - TAPS, 0)
    return audio if length is None else _pad_or_cut(audio, length)


def _filter(
    phases: Float[Array, "*b k p"], kernel: Float[np.ndarray, "tap p q"], causal: bool
) -> Float[Array, "*b k q"]:
    """Convolve along `k`, mixing the `p` input features into `q`: with the past if causal, else with the future.

    A product of whole rows of samples with one band matrix: as a convolution of so few features it left a matrix unit
    idle, and took a sixth of the time of a training step of `cws-small` on a TPU.
    """
    (taps, inputs, outputs), length = kernel.shape, phases.shape[-2]
    width = ROW // inputs
    count = -(-length // width)
    before, reach = (taps - 1 if causal else 0) * inputs, (taps - 1) * inputs
    signals = phases.reshape(math.prod(phases.shape[:-2]), length * inputs)
    signals = jnp.pad(signals, [(0, 0), (before, (count + 1) * ROW - length * inputs - before)])
    rows = signals.reshape(len(signals), count + 1, ROW)
    rows = jnp.concatenate([rows[:, :-1], rows[:, 1:, :reach]], axis=-1)
    # on a TPU or GPU the default precision would round to 8 or 10 bits
    filtered = jnp.matmul(rows, _band(kernel, width), precision=lax.Precision.HIGHEST)
    filtered = filtered.reshape(len(signals), count * width * outputs)[:, : length * outputs]
    return filtered.reshape(*phases.shape[:-1], outputs)


def _band(kernel: Float[np.ndarray, "tap p q"], width: int) -> Float[np.ndarray, "i o"]:
    """Return the matrix from a row and what follows it, as far as the kernel reaches, to `width` outputs."""
    taps, inputs, outputs = kernel.shape
    band = np.zeros((width + taps - 1, inputs, width, outputs), np.float32)
    for position in range(width):
        band[position : position + taps, :, position] = kernel
    return band.reshape(-1, width * outputs)


@functools.cache
def _analysis_kernel(subbands: int) -> Float[np.ndarray, "tap p s"]:
    # subband_s[k] = sum_m f_s[m] / S * x[S k + S - 1 - m], with m = S q + r: sample S - 1 - r of block k - q
    filters = _filters(f"f_{subbands}").reshape(subbands, -1, subbands)[:, ::-1, ::-1]
    return np.ascontiguousarray(filters.transpose(1, 2, 0) / subbands, np.float32)


@functools.cache
def _synthesis_kernel(subbands: int) -> Float[np.ndarray, "tap s p"]:
    # y[S k + p] = S * sum_s sum_q h_s[S q + p] * u_s[k + 64 / S - 1 - q]
    filters = _filters(f"h_{subbands}").reshape(subbands, -1, subbands)[:, ::-1, :]
    return np.ascontiguousarray(filters.transpose(1, 0, 2) * subbands, np.float32)


def _filters(name: str) -> Float[np.ndarray, "s 64"]:
    with np.load(Path(__file__).with_name("pqmf_filters.npz")) as stored:
        return stored[name]


def _checked(subbands: int) -> int:
    if subbands not in SUBBANDS:
        raise InputError(f"There are no filters for {subbands} subbands; choose 1, 2, 4 or 8")
    return subbands


def _pad_or_cut(audio: Float[Array, "*b t"], length: int) -> Float[Array, "*b length"]:
    audio = audio[..., :length]
    return jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, length - audio.shape[-1])])
