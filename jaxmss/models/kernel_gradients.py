"""Gradients of convolutions with respect to their kernels, on a CPU.

XLA computes them as convolutions whose kernel is as large as the image, which its CPU compiler does at a fifth of the
speed of a matrix product. Here a row of the image at a time gives one product for each row of the kernel, whose columns
lie side by side: of all rearrangements of the data, the ones that stay within the cache were the fastest.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxmss.typing import Array, Float

POSITIONS = 2048  # of the image in a product, at most: fewer take long to add up, more leave the cache and round more


class Kernel(NamedTuple):
    """What a convolution's shapes do not tell.

    Attributes:
      size: of the kernel (frequencies, frames).
      padding: zeros before and after each axis of the image.
    """

    size: tuple[int, ...]
    padding: tuple[tuple[int, int], tuple[int, int]]


Image = Float[Array, "b f n _"]


def kernel_gradient(kernel: Kernel, x: Image, ascent: Image) -> Float[Array, "p q h g"]:
    """Return the gradient for the kernel, given the one for the outputs (`ascent`), which are as many as the inputs."""
    (p, q), (b, f, n, g), h = kernel.size, ascent.shape, x.shape[-1]
    rows = _rows_at_a_time(b, f, n)
    shift_inputs = h < g  # the side with fewer features is the one to lay side by side
    around_rows, around_frames = kernel.padding
    x = jnp.pad(x, [(0, 0), around_rows, (0, 0), (0, 0)])

    def add(total: Array, row: Array) -> tuple[Array, None]:
        # features first, here, once: a product wants its left side so, and each would copy it for itself
        left = lax.dynamic_slice_in_dim(ascent, row, rows, axis=1).transpose(3, 0, 1, 2)
        if not shift_inputs:
            left = jnp.pad(left, [(0, 0), (0, 0), (0, 0), around_frames[::-1]])
            left = jnp.concatenate([left[..., q - 1 - j :][..., :n] for j in range(q)], axis=0)
        products = []
        for i in range(p):
            right = lax.dynamic_slice_in_dim(x, row + i, rows, axis=1)
            if shift_inputs:
                right = jnp.pad(right, [(0, 0), (0, 0), around_frames, (0, 0)])
                right = jnp.concatenate([right[:, :, j : j + n] for j in range(q)], axis=-1)
            products.append(jnp.tensordot(left, right, axes=((1, 2, 3), (0, 1, 2)), precision=lax.Precision.HIGHEST))
        return total + jnp.stack(products), None

    start = jnp.zeros((p, g, q * h) if shift_inputs else (p, q * g, h), x.dtype)
    total, _ = lax.scan(add, start, jnp.arange(0, f, rows))
    if shift_inputs:
        return total.reshape(p, g, q, h).transpose(0, 2, 3, 1)
    return total.reshape(p, q, g, h).transpose(0, 1, 3, 2)


def depthwise_kernel_gradient(kernel: Kernel, x: Image, ascent: Image) -> Float[Array, "p q 1 h"]:
    """Return the same for a convolution that filters each feature by itself."""
    (p, q), (b, f, n, h) = kernel.size, x.shape
    rows = _rows_at_a_time(b, f, n)
    x = jnp.pad(x, [(0, 0), *kernel.padding, (0, 0)])

    def add(total: Array, row: Array) -> tuple[Array, None]:
        right = lax.dynamic_slice_in_dim(ascent, row, rows, axis=1)
        lefts = [lax.dynamic_slice_in_dim(x, row + i, rows, axis=1) for i in range(p)]
        sums = [(left[:, :, j : j + n] * right).sum((0, 1, 2)) for left in lefts for j in range(q)]
        return total + jnp.stack(sums), None

    total, _ = lax.scan(add, jnp.zeros((p * q, h), x.dtype), jnp.arange(0, f, rows))
    return total.reshape(p, q, 1, h)


def _rows_at_a_time(b: int, f: int, n: int) -> int:
    """Return the largest divisor of the number of rows `f` that makes for no more than `POSITIONS`, or 1."""
    most = max(1, POSITIONS // (b * n))
    return next(rows for rows in range(min(most, f), 0, -1) if f % rows == 0)
