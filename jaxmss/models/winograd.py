"""3x3 convolutions: direct, or on a CPU with half the multiplications where no gradients are wanted.

Winograd's minimal filtering F(4, 3) along frequency: four outputs of a 3-tap filter from six products instead of
twelve (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). Along frames the convolution
stays direct. Transforming one axis alone leaves less to move than both axes, and was faster at every level but one.

Its rounding errors, a few times those of a direct convolution, do nothing to an estimate. In the forward pass of
training batch norms over few values enlarge them: gradients of `cws-small` on half a second came out up to five times
as far from those in float64. There the convolutions are direct. In the backward pass they change nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmss.models.convolution import SAME_3X3, convolve, gradient_for_kernel
from jaxmss.typing import Array, Float

# outputs = A @ ((B @ inputs) * (G @ taps)), for the interpolation points 0, 1, -1, 2, -2 and infinity
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

LEAST_FEATURES = 64  # below, moving the transformed images costs more than their products save
LEAST_POSITIONS = 320  # of the images: below, transforming the kernel does


@jax.custom_vjp
def convolve_3x3(x: Float[Array, "b f n h"], kernel: Float[Array, "3 3 h g"]) -> Float[Array, "b f n g"]:
    """Convolve an image with a 3x3 kernel, padded to keep its size, in the way that suits the device.

    GPU libraries choose their own algorithms, and a TPU's matrix unit has products to spare: only a CPU gains.
    """
    return _convolve_quickly(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_directly(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], ascent: Array) -> tuple[Array, Array]:
    x, kernel = kept
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _convolve_quickly(ascent, turned), gradient_for_kernel(x, kernel, SAME_3X3, ascent)


convolve_3x3.defvjp(_forward, _backward)


def _convolve_quickly(x: Array, kernel: Array) -> Array:
    b, f, n, h = x.shape
    small = min(h, kernel.shape[3]) < LEAST_FEATURES or b * f * n < LEAST_POSITIONS
    if small or f % 4 or x.dtype != jnp.float32:
        return _convolve_directly(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_convolve_by_winograd, default=_convolve_directly)


def _convolve_directly(x: Array, kernel: Array) -> Array:
    return convolve(x, kernel, SAME_3X3)


def _convolve_by_winograd(x: Float[Array, "b f n h"], kernel: Float[Array, "3 3 h g"]) -> Float[Array, "b f n g"]:
    b, f, n, _ = x.shape
    padded = jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0)])
    rows = _combined(_B, [padded[:, i : i + f - 3 : 4] for i in range(6)])
    taps = _combined(_G, list(kernel))
    products = [convolve(row, tap[None], ((0, 0), (1, 1))) for row, tap in zip(rows, taps, strict=True)]
    return jnp.stack(_combined(_A, products), axis=2).reshape(b, f, n, -1)


def _combined(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """Multiply `parts` by a small matrix, term by term."""
    rows = matrix.tolist()
    return [sum(factor * part for factor, part in zip(row, parts, strict=True) if factor) for row in rows]
