"""The layers of a level of the Demucs family beside its convolutions.

Défossez, "Hybrid Spectrogram and Waveform Source Separation", MDX workshop 2021, section 3. Signals are ``b t h``, and
``b n f h`` where there are frequencies. Where an example has only its first ``lengths`` positions in time, layers make
of them what they would make of an input that ends there; what they make of the others is of no use.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.demucs_config import ResidualBranch
from jaxmss.models.demucs_convolutions import Projection, TimeConv
from jaxmss.models.layers import Lengths, zero_after
from jaxmss.models.local_attention import LocalAttention
from jaxmss.models.lstm import LSTM
from jaxmss.typing import Array, DTypeLike, Float


class GroupNorm(nn.Module):
    """Normalise each example, or each of its frequencies, over all positions and a group of features.

    Attributes:
      groups: of features.
      by_frequency: whether each frequency of ``b n f h`` has statistics of its own.
      dtype: of the result; statistics are float32 always.
    """

    groups: int = 1
    by_frequency: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t *_ h"], lengths: Lengths | None = None) -> Float[Array, "b t *_ h"]:
        """Normalise `x`, then scale and shift each feature."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, features // self.groups)
        axes = (1, -1) if self.by_frequency else (*range(1, grouped.ndim - 2), -1)
        mean = _mean(grouped, axes, lengths)
        var = _mean(jnp.square(grouped - mean), axes, lengths)
        # one product and one sum, as PyTorch has it: what is left of the mean need not be stored for all positions
        each = (self.groups, features // self.groups)
        gain = lax.rsqrt(var + 1e-5) * scale.reshape(each)
        normal = grouped * gain + (bias.reshape(each) - mean * gain)
        return normal.reshape(x.shape).astype(self.dtype)


class ResidualBranches(nn.Module):
    """Branches added to a level's signal one after the other, each twice as dilated as the one before.

    Attributes:
      config: of the branches.
      level: of the network, counted from 0, on which it depends what they hold.
      dtype: of the computation.
    """

    config: ResidualBranch
    level: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t *f h"], lengths: Lengths | None = None) -> Float[Array, "b t *f h"]:
        """Add all branches to `x`; frequencies do not see each other."""
        features = x.shape[-1]
        hidden = features // self.config.compression
        norm = functools.partial(GroupNorm, by_frequency=x.ndim == 4, dtype=self.dtype)
        for depth in range(self.config.depth):
            name = f"branch_{depth}"
            y = TimeConv(hidden, 2**depth, self.dtype, name=f"{name}_conv1")(x, lengths)
            y = gelu(norm(name=f"{name}_norm1")(y, lengths))
            if self.level >= self.config.lstm_from:
                y = _each_frequency(LSTM(self.dtype, name=f"{name}_lstm"), y, lengths)
            if self.level >= self.config.attention_from:
                y = _each_frequency(LocalAttention(self.dtype, name=f"{name}_attention"), y, lengths)
            y = Projection(2 * features, self.dtype, name=f"{name}_conv2")(y)
            y = glu(norm(name=f"{name}_norm2")(y, lengths))
            scale = self.param(f"{name}_scale", nn.initializers.constant(self.config.scale), (features,))
            x = x + y * scale.astype(self.dtype)
        return x


def _each_frequency(layer: nn.Module, x: Float[Array, "b t *f h"], lengths: Lengths | None) -> Float[Array, "b t *f h"]:
    """Apply a layer of sequences ``b t h`` to the sequence of each frequency."""
    if x.ndim == 3:
        return layer(x, lengths)
    b, t, f, h = x.shape
    lengths = None if lengths is None else jnp.repeat(lengths, f)
    return layer(x.swapaxes(1, 2).reshape(b * f, t, h), lengths).reshape(b, f, t, h).swapaxes(1, 2)


def _mean(x: Float[Array, "b t *_"], axes: tuple[int, ...], lengths: Lengths | None) -> Float[Array, "b 1 *_"]:
    """Return the mean over `axes`, time among them, of the positions that exist; those axes stay, of size 1."""
    mean = zero_after(x, lengths).mean(axes, keepdims=True)
    if lengths is None:
        return mean
    return mean * (x.shape[1] / jnp.maximum(lengths, 1)).reshape(-1, *[1] * (x.ndim - 1))


def glu(x: Float[Array, "*b hh"]) -> Float[Array, "*b h"]:
    """Gate the first half of the features by the second."""
    signal, gate = jnp.split(x, 2, axis=-1)
    return signal * jax.nn.sigmoid(gate)


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return ``x`` times the normal distribution function of ``x``.

    By way of erf, as PyTorch computes it: `jax.nn.gelu` takes erfc, which is exact further down its tail, where it adds
    nothing to a signal, and three times as slow.
    """
    return x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)))


def normalized(
    x: Float[Array, "b t *_"], deviating: Float[Array, "b t *_"] | None = None, lengths: Lengths | None = None
) -> tuple[Array, Array, Array]:
    """Return each example over its deviation after its mean is taken off, and both.

    The statistics are those of `deviating`, by default of `x`; the deviation is the unbiased one.
    """
    source = x if deviating is None else deviating
    axes = tuple(range(1, source.ndim))
    mean = _mean(source, axes, lengths)
    count = source[0].size if lengths is None else lengths * source[0, 0].size
    squares = zero_after(jnp.square(source - mean), lengths).sum(axes)
    # the root of nothing has no gradient
    silent = squares == 0
    deviation = jnp.where(silent, 0, jnp.sqrt(jnp.where(silent, 1, squares / jnp.maximum(count - 1, 1))))
    mean, deviation = (statistic.reshape(-1, *[1] * (x.ndim - 1)) for statistic in (mean, deviation))
    return (x - mean) / (1e-5 + deviation), mean, deviation
