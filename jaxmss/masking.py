"""From the network's maps to a complex estimate: magnitude mask, residual and phase rotation.

Kong et al., "Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation", ISMIR 2021,
equations 9 to 15. Four maps for each bin: magnitude mask M, phase rotation P = (P_r, P_i), residual Q. The estimate has
magnitude relu(sigmoid(M) |X| + Q) and the phase of the mixture turned by the angle of P.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmss.config import MapConvention
from jaxmss.typing import Array, Complex, Float


def magnitude_and_phase(
    spectra: Complex[Array, "*b n f"], floor: float
) -> tuple[Float[Array, "*b n f"], Float[Array, "*b n f"], Float[Array, "*b n f"]]:
    """Return magnitude, cosine and sine of the phase; the squared magnitude is at least `floor`.

    The floor also keeps the gradient finite at silence.
    """
    magnitude = jnp.sqrt(jnp.maximum(jnp.square(spectra.real) + jnp.square(spectra.imag), floor))
    return magnitude, spectra.real / magnitude, spectra.imag / magnitude


def apply_maps(
    maps: Float[Array, "*b f n h"],
    magnitude: Float[Array, "*b c s n f"],
    cos: Float[Array, "*b c s n f"],
    sin: Float[Array, "*b c s n f"],
    convention: MapConvention,
) -> Complex[Array, "*b j c s n f"]:
    """Apply `maps` (``h`` holds j, 4, c, s in the order of `convention`) to a mixture's magnitude and phase."""
    channels, subbands = magnitude.shape[-4:-2]
    m, p_r, p_i, q = _split(maps, channels, subbands, convention)
    if convention.bounded_phase:
        p_r, p_i = jnp.tanh(p_r), jnp.tanh(p_i)
    if convention.bounded_residual:
        q = jnp.tanh(q)
    magnitude, cos, sin = (x[..., None, :, :, :, :] for x in (magnitude, cos, sin))
    estimate = jax.nn.relu(jax.nn.sigmoid(m) * magnitude + q)
    # sqrt after the maximum: its gradient is finite where P is zero
    scale = estimate / jnp.sqrt(jnp.maximum(jnp.square(p_r) + jnp.square(p_i), 1e-20))
    return jax.lax.complex(scale * (cos * p_r - sin * p_i), scale * (sin * p_r + cos * p_i))


def _split(
    maps: Float[Array, "*b f n h"], channels: int, subbands: int, convention: MapConvention
) -> list[Float[Array, "*b j c s n f"]]:
    """Return the four maps, their axes named and brought to their place."""
    batch = maps.shape[:-3]
    if convention.order == "map-channel-subband":
        maps, kind = maps.reshape(*maps.shape[:-1], -1, 4, channels, subbands), -3
    else:
        maps, kind = maps.reshape(*maps.shape[:-1], -1, channels, 4, subbands), -2
    # split first: the gradients of slices of the whole would be padded to the whole each, and added up
    parts = [part.squeeze(kind) for part in jnp.split(maps, 4, axis=kind)]
    order = (*range(len(batch)), *(len(batch) + axis for axis in (2, 3, 4, 1, 0)))  # f n j c s to j c s n f
    return [part.transpose(order) for part in parts]
