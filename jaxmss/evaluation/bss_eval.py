"""ISR, SIR and SAR of BSS Eval v4: how much of an estimate can be explained by filtering the references.

With the stem images `s_j` (c t) and their estimates `ŝ_j`, BSS Eval looks for the 512-tap filters, fixed over the
track, that bring references nearest to an estimate in the least-squares sense: once from the stem's own channels, once
from the channels of all stems. Frame by frame it then compares the energies of three errors:

    spatial distortion   own channels, filtered, minus s_j
    interference         all channels, filtered, minus own channels, filtered
    artifacts            ŝ_j minus all channels, filtered

This module projects the error `e_j = ŝ_j - s_j` instead of the estimate. `s_j` lies in the span of the references and
is its own projection, so the three terms come out the same; but each is computed as the small quantity that it is and
not as a difference of large ones, which keeps near-perfect estimates exact. Energies are taken in the frequency domain
(Parseval), so that nothing but the signals and the filters is ever transformed.

Sources: E. Vincent et al., "First stereo audio source separation evaluation campaign" (2007), for the decomposition;
F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 Signal Separation Evaluation Campaign" (2018), for filters fixed over the
track. The numbers are those of museval 0.4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.linalg
from jaxtyping import Complex, Float
from numpy.lib.stride_tricks import sliding_window_view

TAPS = 512  # length of the distortion filters

# A delayed channel of which less than this share is left after a projection on the others is a combination of them:
# float64 correlations cannot tell it from one. It gets no filter, the others explain what it would have explained.
DEPENDENT = 1e-14

_BLOCK = 4096  # FFT length for correlations: the fastest per sample
_BLOCKS_AT_ONCE = 64
_FRAMES_AT_ONCE = 16
_BINS_AT_ONCE = 128  # with 16 frames of 16 channels the temporaries stay in the processor's cache

Waveforms = Sequence[Float[np.ndarray, "c t"]]


def spatial_ratios(references: Waveforms, estimates: Waveforms, frame: int) -> dict[str, Float[np.ndarray, "j w"]]:
    """Return ISR, SIR and SAR in dB, each (j w): of every stem j in each of the w whole frames of `frame` samples.

    `references` and `estimates` are j arrays (c t) of one shape. Samples after the last whole frame take part in the
    filters only; a track shorter than a frame is one frame. Where a kind of error is absent the ratio is `inf`.
    """
    stems, (channels, samples) = len(references), references[0].shape
    correlations = _correlations(references, estimates)
    taps = _error_filters(correlations, stems, channels)
    return _ratios(references, estimates, taps, min(frame, samples))


def _segment(references: Waveforms, estimates: Waveforms, start: int, length: int) -> Float[np.ndarray, "x length"]:
    """Stack all channels of all references, then those of all errors, in float64, with zeros after the track's end."""
    channels, samples = references[0].shape
    stop = min(start + length, samples)
    out = np.zeros((2, len(references), channels, length))
    for j, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
        out[0, j, :, : stop - start] = reference[:, start:stop]
        out[1, j, :, : stop - start] = estimate[:, start:stop]
        out[1, j] -= out[0, j]
    return out.reshape(-1, length)


def _correlations(references: Waveforms, estimates: Waveforms) -> Float[np.ndarray, "a x m"]:
    """Correlate each reference channel `s_a` with all channels `z_x`: `r[a, x, m] = sum_n s_a[n] z_x[n + m]`, m < TAPS.

    A block of `s_a` followed by TAPS - 1 zeros meets the same span of `z_x`, which has samples there: the circular
    correlation is free of aliases at the lags that count, and blocks add up to the track.
    """
    channels, samples = references[0].shape
    a = len(references) * channels
    hop = _BLOCK - TAPS + 1
    cross = np.zeros((_BLOCK // 2 + 1, a, 2 * a), np.complex128)
    for start in range(0, samples, hop * _BLOCKS_AT_ONCE):
        blocks = min(_BLOCKS_AT_ONCE, -(-(samples - start) // hop))
        segment = _segment(references, estimates, start, blocks * hop + TAPS - 1)
        later = scipy.fft.rfft(sliding_window_view(segment, _BLOCK, axis=1)[:, ::hop])
        now = scipy.fft.rfft(segment[:a, : blocks * hop].reshape(a, blocks, hop), _BLOCK)
        cross += np.ascontiguousarray(now.conj().transpose(2, 0, 1)) @ np.ascontiguousarray(later.transpose(2, 1, 0))
    return scipy.fft.irfft(cross, axis=0)[:TAPS].transpose(1, 2, 0)


def _error_filters(correlations: Float[np.ndarray, "a x m"], stems: int, channels: int) -> Float[np.ndarray, "2 y a m"]:
    """Return the filters from reference channels `a` to the spatial distortion and to the interference of channel `y`.

    Filters of the spatial distortion are zero outside the stem's own channels.
    """
    a = stems * channels
    products = correlations[:, a:].transpose(0, 2, 1)  # (a m y)
    gram = _gram(correlations[:, :a])
    own = np.zeros((a, TAPS, a))
    for j in range(stems):
        c = slice(j * channels, (j + 1) * channels)
        rows = slice(c.start * TAPS, c.stop * TAPS)
        solution = _solve(gram[rows, rows], products[c, :, c].reshape(-1, channels))
        own[c, :, c] = solution.reshape(channels, TAPS, channels)
    every = _solve(gram, products.reshape(-1, a)).reshape(a, TAPS, a)
    return np.stack([own, every - own]).transpose(0, 3, 1, 2)


def _gram(r: Float[np.ndarray, "a a m"]) -> Float[np.ndarray, "am am"]:
    """Lay out the inner products of all delayed reference channels: entry ((a, τ), (b, σ)) is r_ab at lag τ - σ."""
    lags = np.concatenate([r.transpose(1, 0, 2)[..., :0:-1], r], axis=-1)  # r_ab[-m] = r_ba[m]
    blocks = sliding_window_view(lags, TAPS, axis=-1)[..., ::-1]
    return blocks.transpose(0, 2, 1, 3).reshape(len(r) * TAPS, len(r) * TAPS)


def _solve(gram: Float[np.ndarray, "k k"], products: Float[np.ndarray, "k y"]) -> Float[np.ndarray, "k y"]:
    """Solve the normal equations by a Cholesky factorisation that passes over dependent rows.

    Rows are scaled to unit energy first, so that a quiet stem is not taken for a dependent one.
    """
    energy = np.diagonal(gram)
    scale = np.divide(1.0, np.sqrt(energy), out=np.zeros(len(gram)), where=energy > 0)
    scaled = gram * scale
    scaled *= scale[:, None]
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(scaled.T, tol=DEPENDENT, lower=1, overwrite_a=1)
    kept = pivots[:rank] - 1
    solution = np.zeros_like(products)
    right = products[kept] * scale[kept, None]
    solution[kept] = scipy.linalg.cho_solve((factor[:rank, :rank], True), right) * scale[kept, None]
    return solution


def _ratios(
    references: Waveforms, estimates: Waveforms, taps: Float[np.ndarray, "2 y a m"], frame: int
) -> dict[str, Float[np.ndarray, "j w"]]:
    """Filter each frame, zeros around it, and compare energies."""
    stems, (channels, samples) = len(references), references[0].shape
    a = stems * channels
    fft_length = 2 * scipy.fft.next_fast_len(-(-(frame + TAPS - 1) // 2))  # even, and long enough for all of the tail
    responses = scipy.fft.rfft(taps.reshape(2 * a, a, TAPS), fft_length).transpose(2, 0, 1).copy()
    frames = samples // frame
    energies = np.zeros((6, a, frames))
    for first in range(0, frames, _FRAMES_AT_ONCE):
        some = slice(first, min(first + _FRAMES_AT_ONCE, frames))
        count = some.stop - first
        segment = _segment(references, estimates, first * frame, count * frame)
        spectra = scipy.fft.rfft(segment.reshape(2 * a, count, frame), fft_length)
        spectra[..., [0, -1]] *= np.sqrt(0.5)  # these two bins are single, all others stand for a conjugate pair
        for low in range(0, spectra.shape[-1], _BINS_AT_ONCE):
            bins = slice(low, low + _BINS_AT_ONCE)
            true, error = np.split(np.ascontiguousarray(spectra[..., bins].transpose(2, 0, 1)), 2, axis=1)
            spatial, interference = np.split(responses[bins] @ true, 2, axis=1)
            own = true + spatial
            parts = (true, spatial, own, interference, own + interference, error - spatial - interference)
            energies[:, :, some] += [_energy(part) for part in parts]
    true, spatial, own, interference, every, artifacts = energies.reshape(6, stems, channels, frames).sum(axis=2)
    return {"ISR": decibels(true, spatial), "SIR": decibels(own, interference), "SAR": decibels(every, artifacts)}


def _energy(spectra: Complex[np.ndarray, "f y w"]) -> Float[np.ndarray, "y w"]:
    halves = spectra.view(np.float64)  # real and imaginary parts alternate
    return np.einsum("fyw,fyw->yw", halves, halves).reshape(*spectra.shape[1:], 2).sum(axis=-1)


def decibels(signal: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return `10 log10(signal / error)` elementwise; `inf` without error, as in museval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(np.divide(signal, error)))
