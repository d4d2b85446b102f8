"""The layers that all networks of the family share. Images are channels-last with frequency first: ``b f n h``."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Inexact

from jaxmss.models.convolution import convolve, convolve_depthwise
from jaxmss.models.devices import device_count, mean_over_devices
from jaxmss.models.winograd import convolve_3x3
from jaxmss.typing import Array, DTypeLike, Float, Int

Lengths = Int[Array, " b"]  # how many positions in time each example has

CONVOLUTION = "convolution"  # what rematerialisation knows it by

xavier_uniform = nn.initializers.xavier_uniform()


class BatchNorm(nn.Module):
    """Batch normalisation as PyTorch computes it, as one multiply-add.

    In training the statistics are those of the whole batch, over all axes but `axis` and over all devices. Running
    statistics hold the unbiased variance.

    Attributes:
      axis: the axis that keeps its own statistics.
      momentum: share of a new batch in the running statistics.
      epsilon: added to the variance.
      absolute_gain: multiply by ``|scale| + 1e-5`` instead of by the scale.
      dtype: of the result; statistics are float32 always.
    """

    axis: int = -1
    momentum: float = 0.01
    epsilon: float = 1e-5
    absolute_gain: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        """Normalise `x`, by its own statistics in training and by the running ones otherwise."""
        features = x.shape[self.axis]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if self.absolute_gain:
            scale = jnp.abs(scale) + 1e-5

        along = [1] * x.ndim
        along[self.axis] = features
        if train:
            others = tuple(axis for axis in range(x.ndim) if axis != self.axis % x.ndim)
            samples = device_count() * x.size // features
            x32 = x.astype(jnp.float32)
            batch_mean = mean_over_devices(x32.mean(others))
            # the mean is where the squares are least: nothing flows back through it, nor is summed up to find that out
            deviation = x32 - lax.stop_gradient(batch_mean).reshape(along)
            batch_var = mean_over_devices(jnp.square(deviation).mean(others))
            if not self.is_initializing():
                unbiased = batch_var * (samples / max(samples - 1, 1))
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            batch_mean, batch_var = mean.value, var.value

        gain = scale * lax.rsqrt(batch_var + self.epsilon)
        shift = bias - batch_mean * gain
        return (x * gain.reshape(along) + shift.reshape(along)).astype(self.dtype)


class Conv(nn.Module):
    """A convolution over (frequency, frame), padded to keep the image's size.

    Attributes:
      features: of the output.
      size: of the square kernel, 1 or 3.
      use_bias: whether to add a bias.
      depthwise: whether each feature is filtered by itself.
      dtype: of the computation; parameters are float32.
    """

    features: int
    size: int = 3
    use_bias: bool = False
    depthwise: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f n h"]) -> Float[Array, "b f n g"]:
        """Convolve `x`."""
        inputs = 1 if self.depthwise else x.shape[-1]
        kernel = self.param("kernel", xavier_uniform, (self.size, self.size, inputs, self.features))
        kernel = kernel.astype(self.dtype)
        if self.size == 1:
            y = convolve(x, kernel, ((0, 0), (0, 0)))
        elif self.depthwise:
            y = convolve_depthwise(x, kernel)
        else:
            y = convolve_3x3(x, kernel)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return checkpoint_name(y, CONVOLUTION)


class Upsample(nn.Module):
    """Transposed convolution that enlarges the image by `factors`, as a sub-pixel convolution.

    A convolution of stride 1 computes all outputs that share an input position, which then move from features to
    space: none of its products is with an inserted zero.

    Attributes:
      features: of the output.
      factors: enlargement of (frequency, frames), each 1 or 2.
      size: kernel size (frequency, frames), at least `factors`.
      crop: rows and columns cut off before the first that is kept; what exceeds the enlarged image is cut off after it.
      use_bias: whether to add a bias.
      kernel_init: initialiser of the kernel (frequency, frame, in, out).
      dtype: of the computation.
    """

    features: int
    factors: tuple[int, int]
    size: tuple[int, int]
    crop: tuple[int, int] = (0, 0)
    use_bias: bool = False
    kernel_init: Callable = xavier_uniform
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f n h"]) -> Float[Array, "b F N g"]:
        """Enlarge `x`."""
        b, f, n, inputs = x.shape
        (p, q), g = self.factors, self.features
        kernel = self.param("kernel", self.kernel_init, (*self.size, inputs, g)).astype(self.dtype)
        # output position p i + r - crop takes tap p d + r of the input at i - d: fill the kernel up to whole steps d,
        # as seen from the first position that is kept, and split it
        before = [-crop % factor for crop, factor in zip(self.crop, self.factors, strict=True)]
        taps = zip(before, self.size, self.factors, strict=True)
        after = [-(zeros + size) % factor for zeros, size, factor in taps]
        kernel = jnp.pad(kernel, [*zip(before, after, strict=True), (0, 0), (0, 0)])
        steps = kernel.shape[0] // p, kernel.shape[1] // q
        kernel = kernel.reshape(steps[0], p, steps[1], q, inputs, g)[::-1, :, ::-1]
        kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(*steps, inputs, p * q * g)
        ahead = [-(-crop // factor) for crop, factor in zip(self.crop, self.factors, strict=True)]
        y = convolve(x, kernel, padding=tuple((step - 1 - n, n) for step, n in zip(steps, ahead, strict=True)))
        y = y.reshape(b, f, n, p, q, g).transpose(0, 1, 3, 2, 4, 5).reshape(b, f * p, n * q, g)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (g,)).astype(self.dtype)
        return y


def average_pool(x: Float[Array, "b f n h"], bins: int, frames: int) -> Float[Array, "b F N h"]:
    """Average over windows of `bins` x `frames`."""
    return nn.avg_pool(x, (bins, frames), (bins, frames))


def zero_after(x: Float[Array, "b t *_"], lengths: Lengths | None) -> Float[Array, "b t *_"]:
    """Return `x` with zeros, whatever there was, after the first ``lengths`` positions of each example, if given."""
    if lengths is None:
        return x
    existing = jnp.arange(x.shape[1]) < lengths[:, None]
    return jnp.where(existing.reshape(*existing.shape, *[1] * (x.ndim - 2)), x, 0)


def take_stems(
    stems: Inexact[Array, "b j *_"], known: tuple[str, ...], wanted: tuple[str, ...]
) -> Inexact[Array, "b k *_"]:
    """Return the stems that are `wanted`, in that order, of the `known` ones."""
    return stems if wanted == known else stems[:, jnp.array([known.index(source) for source in wanted])]


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Leaky ReLU with the slope of all published networks."""
    return jax.nn.leaky_relu(x, 0.01)


def torch_default_uniform(key, shape, dtype=jnp.float32):
    """Initialise a transposed convolution's kernel as PyTorch does by default: uniform, bounded by 1/sqrt(fan)."""
    bound = 1 / jnp.sqrt(shape[0] * shape[1] * shape[3])
    return jax.random.uniform(key, shape, dtype, -bound, bound)
