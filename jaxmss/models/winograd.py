"""3x3 convolutions: direct."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax


def convolve_3x3(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )
