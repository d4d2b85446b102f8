"""The short-time Fourier transform and its inverse, in float32: periodic Hann window, centred frames, one-sided.

Frames are cut and overlap-added as shifted slices of hop-sized blocks, which needs neither gather nor scatter.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from jaxmss.errors import InputError
from jaxmss.fft import irfft, rfft
from jaxmss.typing import Array, Complex, Float, Int

Lengths = Int[Array, "*#b"]


def stft(
    audio: Float[Array, "*b t"], n_fft: int, hop: int, *, lengths: Lengths | None = None, pad_mode: str = "reflect"
) -> Complex[Array, "*b n f"]:
    """Transform `audio`, padded by ``n_fft / 2`` on either side (`pad_mode` "reflect" or "constant").

    There are ``n = t // hop + 1`` frames of ``f = n_fft // 2 + 1`` bins. With `lengths`, only the first
    ``lengths`` samples of each signal exist: the padding mirrors at that end, and later frames are zero.
    """
    audio = jnp.asarray(audio, jnp.float32)
    if audio.shape[-1] == 0:
        return jnp.zeros((*audio.shape[:-1], 1, n_fft // 2 + 1), jnp.complex64)
    frames = audio.shape[-1] // hop + 1
    padded = _pad(audio, n_fft // 2, lengths, pad_mode)
    spectra = rfft(_frame(padded, frames, n_fft, hop) * hann(n_fft))
    return spectra if lengths is None else jnp.where(frame_mask(lengths // hop + 1, frames)[..., None], spectra, 0)


def istft(
    spectra: Complex[Array, "*b n f"], n_fft: int, hop: int, length: int, *, lengths: Lengths | None = None
) -> Float[Array, "*b t"]:
    """Invert `stft` by windowed overlap-add, normalised by the sum of squared windows, to `length` samples.

    With `lengths`, only the frames of the first ``lengths`` samples count, and later samples are zero.
    """
    frames = spectra.shape[-2]
    window = hann(n_fft)
    existing = jnp.ones((frames,)) if lengths is None else frame_mask(lengths // hop + 1, frames)
    pieces = irfft(spectra, n_fft) * window * existing[..., None]
    weights = jnp.square(window) * existing[..., None]
    audio = _overlap_add(pieces, hop) / jnp.maximum(_overlap_add(weights, hop), 1e-11)
    audio = audio[..., n_fft // 2 :][..., :length]
    audio = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, length - audio.shape[-1])])
    return audio if lengths is None else cut_off(audio, lengths)


def cut_off(audio: Float[Array, "*b t"], lengths: Lengths) -> Float[Array, "*b t"]:
    """Replace by zeros, whatever they are, the samples after the first ``lengths`` of each signal."""
    return jnp.where(jnp.arange(audio.shape[-1]) < lengths[..., None], audio, 0)


def hann(n_fft: int) -> Float[np.ndarray, " n_fft"]:
    """Return the periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def frame_mask(counts: Int[Array, "*b"], frames: int) -> Float[Array, "*b n"]:
    """Return 1 for the first `counts` of `frames` frames and 0 for the rest."""
    return (jnp.arange(frames) < counts[..., None]).astype(jnp.float32)


def _pad(audio: Float[Array, "*b t"], margin: int, lengths: Lengths | None, mode: str) -> Float[Array, "*b u"]:
    sides = [(0, 0)] * (audio.ndim - 1) + [(margin, margin)]
    if lengths is not None:
        audio = cut_off(audio, lengths)
    if mode == "constant":
        return jnp.pad(audio, sides)
    if mode != "reflect":
        raise InputError(f"The padding {mode!r} cannot be used; choose reflect or constant")
    if lengths is None:
        return jnp.pad(audio, sides, mode="reflect")
    # mirror at sample 0 and at the last existing one, as often as needed, then stop: a triangle wave of positions
    positions = jnp.arange(-margin, audio.shape[-1] + margin)
    period = jnp.maximum(2 * (lengths[..., None] - 1), 1)
    mirrored = jnp.abs(positions) % period
    mirrored = jnp.minimum(mirrored, period - mirrored) * (lengths[..., None] > 1)
    padded = jnp.take_along_axis(audio, jnp.broadcast_to(mirrored, (*audio.shape[:-1], positions.size)), axis=-1)
    return padded * (positions < lengths[..., None] + margin)


def _frame(audio: Float[Array, "*b u"], frames: int, n_fft: int, hop: int) -> Float[Array, "*b n n_fft"]:
    reach = -(-n_fft // hop)  # blocks that a frame spans
    blocks = frames + reach - 1
    audio = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, max(blocks * hop - audio.shape[-1], 0))])
    audio = audio[..., : blocks * hop].reshape(*audio.shape[:-1], blocks, hop)
    return jnp.concatenate([audio[..., r : r + frames, :] for r in range(reach)], axis=-1)[..., :n_fft]


def _overlap_add(pieces: Float[Array, "*b n n_fft"], hop: int) -> Float[Array, "*b u"]:
    n_fft = pieces.shape[-1]
    reach = -(-n_fft // hop)
    leading = [(0, 0)] * (pieces.ndim - 2)
    pieces = jnp.pad(pieces, [*leading, (0, 0), (0, reach * hop - n_fft)])
    shifted = [
        jnp.pad(pieces[..., r * hop : (r + 1) * hop], [*leading, (r, reach - 1 - r), (0, 0)]) for r in range(reach)
    ]
    blocks = functools.reduce(jnp.add, shifted)
    return blocks.reshape(*blocks.shape[:-2], -1)
