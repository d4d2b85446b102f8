"""Convolutions of stride 1 over images, with the gradients that suit the device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.models.kernel_gradients import Kernel, depthwise_kernel_gradient, kernel_gradient
from jaxmss.typing import Array, Float

Image = Float[Array, "b f n _"]
Padding = tuple[tuple[int, int], tuple[int, int]]
SAME_3X3: Padding = ((1, 1), (1, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Image, kernel: Float[Array, "p q h g"], padding: Padding) -> Image:
    """Convolve an image with a kernel (frequency, frame, in, out), at full precision in float32.

    With `padding`, zeros before and after each axis, there must be as many outputs as inputs.
    """
    return _convolve(x, kernel, padding)


@jax.custom_vjp
def convolve_depthwise(x: Image, kernel: Float[Array, "3 3 1 h"]) -> Image:
    """Convolve each feature of an image with its own 3x3 kernel, padded to keep the image's size."""
    if x.dtype != jnp.float32:
        return _grouped(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_shifted_sums, default=_grouped)


def gradient_for_kernel(x: Image, kernel: Array, padding: Padding, ascent: Image) -> Array:
    """Return the gradient of `convolve` with respect to `kernel`, given the one with respect to its outputs."""

    def direct(x: Array, ascent: Array) -> Array:
        (gradient,) = jax.linear_transpose(lambda kernel: _convolve(x, kernel, padding), kernel)(ascent)
        return gradient

    if x.dtype != jnp.float32:
        return direct(x, ascent)
    by_rows = functools.partial(kernel_gradient, Kernel(kernel.shape[:2], padding))
    return lax.platform_dependent(x, ascent, cpu=by_rows, default=direct)


def _convolve(x: Array, kernel: Array, padding: Padding, groups: int = 1) -> Array:
    if kernel.shape[:2] == (1, 1) and groups == 1:  # a product, which XLA's CPU compiler makes up to four times as fast
        return jnp.matmul(x, kernel[0, 0], precision=lax.Precision.HIGHEST)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def _convolve_forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, padding), (x, kernel)


def _convolve_backward(padding: Padding, kept: tuple[Array, Array], ascent: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (for_x,) = jax.linear_transpose(lambda x: _convolve(x, kernel, padding), x)(ascent)
    return for_x, gradient_for_kernel(x, kernel, padding, ascent)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _grouped(x: Array, kernel: Array) -> Array:
    return _convolve(x, kernel, SAME_3X3, groups=x.shape[-1])


def _shifted_sums(x: Array, kernel: Array) -> Array:
    """Add up nine shifted images: XLA's CPU compiler fuses them into one loop, and is slow at grouped convolutions."""
    f, n = x.shape[1:3]
    padded = jnp.pad(x, [(0, 0), *SAME_3X3, (0, 0)])
    shifted = [padded[:, i : i + f, j : j + n] * kernel[i, j, 0] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, shifted)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_depthwise(x, kernel), (x, kernel)


def _depthwise_backward(kept: tuple[Array, Array], ascent: Array) -> tuple[Array, Array]:
    x, kernel = kept

    def direct(x: Array, ascent: Array) -> Array:
        (gradient,) = jax.linear_transpose(lambda kernel: _grouped(x, kernel), kernel)(ascent)
        return gradient

    for_x = convolve_depthwise(ascent, kernel[::-1, ::-1])
    if x.dtype != jnp.float32:
        return for_x, direct(x, ascent)
    by_rows = functools.partial(depthwise_kernel_gradient, Kernel((3, 3), SAME_3X3))
    return for_x, lax.platform_dependent(x, ascent, cpu=by_rows, default=direct)


convolve_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
