"""3x3 convolutions: direct, or on a CPU with half the multiplications.

Winograd's minimal filtering F(4, 3) along frequency: four outputs of a 3-tap filter from six products instead of
twelve (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). Along frames the convolution
stays direct. Transforming one axis alone leaves less to move than both axes, and was faster at every level but one.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

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


def convolve(
    x: Float[Array, "b f n h"], kernel: Float[Array, "p q i g"], padding="SAME", groups: int = 1
) -> Float[Array, "b F N g"]:
    """Convolve an image with a kernel (frequency, frame, in, out), at full precision in float32."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def convolve_3x3(x: Float[Array, "b f n h"], kernel: Float[Array, "3 3 h g"]) -> Float[Array, "b f n g"]:
    """Convolve an image with a 3x3 kernel, padded to keep its size, in the way that suits the device.

    GPU libraries choose their own algorithms, and a TPU's matrix unit has products to spare: only a CPU gains.
    """
    if min(kernel.shape[2:]) < LEAST_FEATURES or x.shape[1] % 4 or x.dtype != jnp.float32:
        return convolve(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_convolve_by_winograd, default=convolve)


def _convolve_by_winograd(x: Float[Array, "b f n h"], kernel: Float[Array, "3 3 h g"]) -> Float[Array, "b f n g"]:
    b, f, n, _ = x.shape
    padded = jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0)])
    rows = _combined(_B, [padded[:, i : i + f - 3 : 4] for i in range(6)])
    taps = _combined(_G, list(kernel))
    products = [convolve(row, tap[None]) for row, tap in zip(rows, taps, strict=True)]
    return jnp.stack(_combined(_A, products), axis=2).reshape(b, f, n, -1)


def _combined(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """Multiply `parts` by a small matrix, term by term."""
    rows = matrix.tolist()
    return [sum(factor * part for factor, part in zip(row, parts, strict=True) if factor) for row in rows]
