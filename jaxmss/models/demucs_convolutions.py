"""The convolutions of the Demucs family, all of them matrix products.

Signals are channels-last, with the axis that is strided before the features: ``b t h`` in time, ``b n f h`` in
frequency. So a strided convolution whose kernel is a multiple of its stride is one product of reshaped blocks, and no
axis moves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.models.layers import Lengths, zero_after
from jaxmss.models.winograd import convolve_3x3
from jaxmss.typing import Array, DTypeLike, Float

RESCALE = 0.1  # deviation towards which the weights of convolutions are drawn before training

Initializer = nn.initializers.Initializer


def rescaled_uniform(fan_in: int, gain: float = 1.0) -> Initializer:
    """Return PyTorch's initialiser of convolutions, uniform within ``gain / sqrt(fan_in)``, after `rescale`."""
    return _uniform(gain / math.sqrt(fan_in) / rescale(fan_in, gain))


def torch_uniform(fan_in: int) -> Initializer:
    """Return PyTorch's initialiser of linear layers and LSTMs: uniform within ``1 / sqrt(fan_in)``."""
    return _uniform(1 / math.sqrt(fan_in))


def torch_attention_uniform(fan_in: int) -> Initializer:
    """Return PyTorch's initialiser of an attention's projections: Xavier's, for all three of them as one matrix."""
    return _uniform(math.sqrt(6 / (4 * fan_in)))


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def rescale(fan_in: int, gain: float = 1.0) -> float:
    """Return what Demucs divides a convolution's weights and bias by: the root of their deviation over 0.1."""
    return math.sqrt(gain / math.sqrt(3 * fan_in) / RESCALE)


class Projection(nn.Module):
    """A convolution with a kernel of one tap.

    Attributes:
      features: of the output.
      dtype: of the computation; parameters are float32.
      draw: gives the initialiser for a number of inputs, by default that of all convolutions.
      bias_init: initialiser of the bias, where it is another.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    draw: Callable[[int], Initializer] = rescaled_uniform
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b h"]) -> Float[Array, "*b g"]:
        """Map the features of each position."""
        drawn = self.draw(x.shape[-1])
        kernel = self.param("kernel", drawn, (x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", self.bias_init or drawn, (self.features,)).astype(self.dtype)
        return product(x, kernel) + bias


class StridedConv(nn.Module):
    """A convolution along the last but one axis; what does not fill a stride at the end is left out.

    Attributes:
      features: of the output.
      size: of the kernel, a multiple of the stride.
      stride: of the convolution.
      padding: zeros before and after.
      dtype: of the computation.
    """

    features: int
    size: int
    stride: int
    padding: tuple[int, int] = (0, 0)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b u h"]) -> Float[Array, "*b v g"]:
        """Convolve `x`."""
        kernel, bias = parameters(self, (self.size, x.shape[-1], self.features))
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [self.padding, (0, 0)])
        reach = self.size // self.stride
        blocks = x.shape[-2] // self.stride
        x = x[..., : blocks * self.stride, :].reshape(*x.shape[:-2], blocks, -1)
        outputs = blocks - reach + 1
        # all blocks by each part of the kernel, and shifted sums: shifting the blocks themselves would copy them
        pieces = [product(x, part) for part in kernel.reshape(reach, -1, self.features)]
        return functools.reduce(jnp.add, [piece[..., r : r + outputs, :] for r, piece in enumerate(pieces)]) + bias


class TransposedConv(nn.Module):
    """The transpose of `StridedConv` without padding; attributes as there."""

    features: int
    size: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b u h"]) -> Float[Array, "*b v g"]:
        """Map `u` positions to ``(u - 1) * stride + size``."""
        *leading, positions, inputs = x.shape
        kernel, bias = parameters(self, (self.size, inputs, self.features), fan_in=self.size * self.features)
        reach = self.size // self.stride
        pieces = product(x, kernel.swapaxes(0, 1).reshape(inputs, -1))
        pieces = pieces.reshape(*leading, positions, reach, -1)
        sides = [(0, 0)] * len(leading)
        shifted = [jnp.pad(pieces[..., r, :], [*sides, (r, reach - 1 - r), (0, 0)]) for r in range(reach)]
        return functools.reduce(jnp.add, shifted).reshape(*leading, -1, self.features) + bias


class TimeConv(nn.Module):
    """A convolution along axis 1 with three taps, padded to keep its length; to it zeros follow the first ``lengths``.

    Attributes:
      features: of the output.
      dilation: distance of the taps.
      dtype: of the computation.
    """

    features: int
    dilation: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t *_ h"], lengths: Lengths | None = None) -> Float[Array, "b t *_ g"]:
        """Convolve `x`."""
        x = zero_after(x, lengths)
        inputs = x.shape[-1]
        kernel, bias = parameters(self, (3, inputs, self.features))
        if self.features < inputs:  # shifting what is narrower is cheaper
            taps = jnp.split(product(x, kernel.swapaxes(0, 1).reshape(inputs, -1)), 3, axis=-1)
            return functools.reduce(jnp.add, self._shifted(taps)) + bias
        return product(jnp.concatenate(self._shifted([x] * 3), axis=-1), kernel.reshape(-1, self.features)) + bias

    def _shifted(self, taps: list[Array]) -> list[Array]:
        """Delay the first by one dilation, and advance the last."""
        last = [(0, 0)] * (taps[0].ndim - 2)
        before, now, after = (jnp.pad(tap, [(0, 0), (self.dilation, self.dilation), *last]) for tap in taps)
        length, d = taps[0].shape[1], self.dilation
        return [before[:, :length], now[:, d : d + length], after[:, 2 * d :]]


class Conv3x3(nn.Module):
    """A 3x3 convolution over frames and frequencies, padded to keep the image's size.

    Attributes:
      features: of the output.
      dtype: of the computation.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f h"]) -> Float[Array, "b n f g"]:
        """Convolve `x`."""
        kernel, bias = parameters(self, (3, 3, x.shape[-1], self.features))
        frames = x.shape[1]
        whole = jnp.pad(x, [(0, 0), (0, -frames % 4), (0, 0), (0, 0)])  # four frames at a time are faster on a CPU
        return convolve_3x3(whole, kernel)[:, :frames] + bias


def parameters(module: nn.Module, shape: tuple[int, ...], fan_in: int | None = None) -> tuple[Array, Array]:
    """Make the kernel and the bias of a convolution, in the type of its computation."""
    initializer = rescaled_uniform(fan_in or math.prod(shape[:-1]))
    kernel = module.param("kernel", initializer, shape)
    bias = module.param("bias", initializer, shape[-1:])
    return kernel.astype(module.dtype), bias.astype(module.dtype)


def product(x: Array, kernel: Array) -> Array:
    """Return the matrix product in full precision."""
    return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)
