"""Multichannel Wiener filtering: stems are made consistent between their channels, and with the mixture.

In the local Gaussian model a source's bin is ``N(0, v R)``: a power ``v`` for each frame and bin, and a spatial
covariance ``R``, c by c, for each bin (Duong, Vincent, Gribonval, IEEE TASLP 18.7, 2010). Each iteration takes both
from the last estimates and filters the mixture with them (Nugraha, Liutkus, Vincent, IEEE TASLP 24.9, 2016), with the
constants of the package norbert 0.2.1, which computes in float64.

Float32 will do because no covariance is formed or inverted: those of nearly mono tracks are so near to singular that
rounding would make up their determinants. The filtered sources are also the ones of least energy, relative to their
covariances, that sum to the mixture. Gram-Schmidt on the factors of the covariances finds them. Before that each
bin's channels are made equally loud, and turned to their mean and their differences: what they share then takes no
digits from what tells them apart. The model does not mind, as long as powers are those of the channels as they were,
and the noise is taken along. What is left, at a second iteration, of a mono track whose channels differ in gain and by
the rounding of 16 bits, some 1e-5, is what the rounding of `spectra` to float32 moves norbert's own result by.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss.errors import InputError
from jaxmss.stft import istft, stft
from jaxmss.typing import Array, Complex, Float

EPSILON = 2.0**-52  # added to sums of power by which is divided
NOISE = 2.0**-26  # power of the white noise in the model of a mixture with peaks of `PEAK`
PEAK = 10.0  # largest magnitude to which louder mixtures are brought
MOST = 2.0**40  # by which a channel is raised: 240 dB, more than float32 holds below the peak
SILENCE = 1e-18  # power that has no direction: float32 does not hold the square of its inverse, which gradients need


class Basis(NamedTuple):
    """How the channels of each bin are raised and turned, and back: rows are what is turned to, columns are channels.

    Forward they are whole numbers times gains of twelve binary digits, so that `_turn` is exact where it matters.
    """

    forward: Float[Array, "*b 1 c c 1 f"]
    backward: Float[Array, "*b 1 c c 1 f"]


def wiener(
    spectra: Complex[Array, "*b j c n f"], mixture: Complex[Array, "*b c n f"], iterations: int = 1
) -> Complex[Array, "*b j c n f"]:
    """Refine the stems' `spectra` by expectation-maximisation, after which they sum to `mixture`.

    `iterations` is static under `jax.jit`; none gives `spectra` back. It takes about five times the memory of
    `spectra`. Raises `InputError` for negative iterations.
    """
    if iterations < 0:
        raise InputError(f"iterations (={iterations}) must not be negative")
    if iterations == 0:
        return spectra
    power = jnp.max(_power(mixture), axis=(-3, -2, -1), keepdims=True)
    scale = jax.lax.stop_gradient(jnp.maximum(1, jnp.sqrt(power) / PEAK))
    scale, mixture = scale[..., None, :, :, :], mixture[..., None, :, :, :]
    basis = jax.lax.stop_gradient(_basis(mixture))
    turned = _turn(mixture, basis)[..., 0, :, :, :] / scale[..., 0, :, :, :]

    def iterate(sources: Array, _: None) -> tuple[Array, None]:
        return _filter(turned, *_model(sources, basis), basis.forward), None

    sources, _ = jax.lax.scan(iterate, _turn(spectra, basis) / scale, length=iterations)
    return _turn_back(sources, basis) * scale


def ratio_mask(
    magnitudes: Float[Array, "*b j #c n f"], mixture: Complex[Array, "*b c n f"]
) -> Complex[Array, "*b j c n f"]:
    """Share out `mixture` in proportion to the stems' `magnitudes`: a first estimate where a network gives no phases.

    The magnitudes may be those of one channel for all.
    """
    total = jnp.sum(magnitudes, axis=-4, keepdims=True)
    return magnitudes / (total + EPSILON) * mixture[..., None, :, :, :]


def filter_stems(
    stems: Float[Array, "*b j c t"],
    mixture: Float[Array, "*b c t"],
    iterations: int = 1,
    *,
    n_fft: int = 4096,
    hop: int = 1024,
) -> Float[Array, "*b j c t"]:
    """Refine `stems`, a track's or a window's, by `wiener` on their spectrograms; they then sum to `mixture`.

    A window has one spatial covariance for each source and bin. Silence before or after does not change it.
    Raises `InputError` for negative iterations.
    """
    spectra = wiener(stft(stems, n_fft, hop), stft(mixture, n_fft, hop), iterations)
    return istft(spectra, n_fft, hop, mixture.shape[-1])


def _model(
    sources: Complex[Array, "*b j c n f"], basis: Basis
) -> tuple[Float[Array, "*b j c n f"], Complex[Array, "*b j c c 1 f"]]:
    """Return ``V`` and ``L`` for which ``L diag(V) L^H``, c by c, is ``v R`` of each source, frame and bin.

    ``L`` is lower triangular, with ones on its diagonal: what each channel holds of the directions of those before it.
    """
    power = jnp.mean(_power(_turn_back(sources, basis)), axis=-3, keepdims=True)
    rest = sources
    spreads, directions = [], []
    for k in range(sources.shape[-3]):
        row = rest[..., k : k + 1, :, :]
        spread = jnp.sum(_power(row), axis=-2, keepdims=True)
        heard = spread > SILENCE
        direction = jnp.sum(rest * row.conj(), axis=-2, keepdims=True) / jnp.where(heard, spread, 1)
        direction = jnp.where(heard, direction, 0).at[..., k, :, :].set(1).at[..., :k, :, :].set(0)
        rest = rest - direction * row
        spreads.append(spread)
        directions.append(direction)
    spatial = jnp.concatenate(spreads, axis=-3) / (jnp.sum(power, axis=-2, keepdims=True) + EPSILON)
    return power * spatial, jnp.stack(directions, axis=-3)


def _filter(
    mixture: Complex[Array, "*b c n f"],
    weights: Float[Array, "*b j c n f"],
    factor: Complex[Array, "*b j c c 1 f"],
    noise: Float[Array, "*b 1 c c 1 f"],
) -> Complex[Array, "*b j c n f"]:
    """Return each source's mean, given that the sources and the noise, of that factor, sum to `mixture`.

    With the columns of all factors side by side, the means are ``L u`` for the ``u`` of least ``|u|^2 / V`` that gives
    the mixture. Gram-Schmidt finds it channel by channel, each freed of what those before it have determined.
    """
    channels = mixture.shape[-3]
    columns = jnp.concatenate([factor, noise.astype(factor.dtype)], axis=-5)
    weights = jnp.concatenate([weights, jnp.full_like(weights[..., :1, :, :, :], NOISE)], axis=-4)
    rows = [columns[..., c, :, :, :] for c in range(channels)]
    wanted = [mixture[..., None, c : c + 1, :, :] for c in range(channels)]
    latent = jnp.zeros(weights.shape, mixture.dtype)
    for c, row in enumerate(rows):
        gain = weights * row.conj()
        gain = gain / jnp.sum((gain * row).real, axis=(-4, -3), keepdims=True)
        latent = latent + gain * wanted[c]
        for later in 2 * [*range(c + 1, channels)]:  # once would leave rounding errors of the loudest source
            share = jnp.sum(rows[later] * gain, axis=(-4, -3), keepdims=True)
            rows[later] = rows[later] - share * row
            wanted[later] = wanted[later] - share * wanted[c]
    return jnp.sum(factor * latent[..., :-1, None, :, :, :], axis=-3)


def _basis(mixture: Complex[Array, "*b 1 c n f"]) -> Basis:
    """Return what suits the loudness of each bin's channels."""
    power = jnp.mean(_power(mixture), axis=-2, keepdims=True)
    heard = power > 0
    loudest = jnp.max(power, axis=-3, keepdims=True)
    fainter = jnp.sqrt(loudest / jnp.where(heard, power, 1))
    gains = jnp.where(heard, _high(jnp.minimum(fainter, MOST)), 1)

    turns = heard.all(-3, keepdims=True)[..., None, :, :, :]  # silence has nothing in common with what is heard
    channels = mixture.shape[-3]
    rows = jnp.where(turns, _helmert(channels)[:, :, None, None], np.eye(channels)[:, :, None, None])
    each = gains[..., None, :, :, :]
    return Basis(rows * each, rows / jnp.sum(rows**2, axis=-3, keepdims=True) / each)


def _turn(spectra: Complex[Array, "*b j c n f"], basis: Basis) -> Complex[Array, "*b j c n f"]:
    """Turn channels: two to ``left + right`` and ``left - right``, once raised; what is equal leaves nothing.

    Twelve binary digits are turned at a time: their products with a gain's twelve are exact, and where channels are
    nearly equal so is the difference of the upper ones. What tells them apart keeps its digits.
    """
    high = jax.lax.complex(_high(spectra.real), _high(spectra.imag))
    upper, lower = (jnp.sum(basis.forward * part[..., None, :, :, :], axis=-3) for part in (high, spectra - high))
    return upper + lower


def _turn_back(spectra: Complex[Array, "*b j c n f"], basis: Basis) -> Complex[Array, "*b j c n f"]:
    return jnp.sum(basis.backward * spectra[..., :, None, :, :], axis=-4)


def _helmert(channels: int) -> Float[np.ndarray, "c c"]:
    """Return orthogonal rows: the sum of the channels, and each one's difference to those before."""
    matrix = np.tri(channels, channels, -1) - np.diag(np.arange(channels))
    matrix[0] = 1
    return matrix.astype(np.float32)


def _power(spectra: Complex[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.square(spectra.real) + jnp.square(spectra.imag)


def _high(numbers: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Round to twelve significant binary digits of the 24."""
    return jax.lax.reduce_precision(numbers, exponent_bits=8, mantissa_bits=11)
