"""Demucs in time, waveform to waveforms: strided convolutions down and up, with skips.

Défossez, Usunier, Bottou, Bach: Music Source Separation in the Waveform Domain, 2019, figure 2; with the residual
branches of Défossez, MDX workshop 2021.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxmss.demucs_config import DemucsConfig
from jaxmss.models.demucs_convolutions import Projection, StridedConv, TimeConv, TransposedConv
from jaxmss.models.demucs_layers import GroupNorm, ResidualBranches, gelu, glu, normalized
from jaxmss.models.layers import take_stems
from jaxmss.resample2 import double_rate, halve_rate
from jaxmss.stft import cut_off
from jaxmss.typing import Array, DTypeLike, Float, Int


class Demucs(nn.Module):
    """The whole chain.

    Attributes:
      config: of the network.
      dtype: inside the levels, float32 or bfloat16; resampling is float32 always.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: DemucsConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        mixture: Float[Array, "b c t"],
        lengths: Int[Array, " b"] | None = None,
        sources: tuple[str, ...] | None = None,
        train: bool = False,
    ) -> Float[Array, "b j c t"]:
        """Estimate `sources` (all, by default) of `mixture`.

        With `lengths`, example `b` is silent after its first ``lengths[b]`` samples, and so are its stems.
        """
        config = self.config
        sources = config.sources if sources is None else sources
        if lengths is not None:
            mixture = cut_off(mixture, lengths[:, None])
        b, channels, length = mixture.shape
        x = mixture.swapaxes(1, 2)
        if config.normalize:
            x, mean, deviation = normalized(x, deviating=x.mean(2))
        missing = config.window(length) - length
        x = jnp.pad(x, [(0, 0), (missing // 2, missing - missing // 2), (0, 0)])
        x = (double_rate(x) if config.resample else x).astype(self.dtype)

        remat = functools.partial(nn.remat, prevent_cse=False) if self.remat else lambda level: level
        skips = []
        for level in range(config.depth):
            x = remat(Encoder)(config, level, self.dtype, name=f"encoder_{level}")(x)
            skips.append(x)
        for level in reversed(range(config.depth)):
            skip = _centre(skips.pop(), x.shape[1])
            x = remat(Decoder)(config, level, self.dtype, name=f"decoder_{config.depth - 1 - level}")(x + skip)

        x = x.astype(jnp.float32)
        x = _centre(halve_rate(x) if config.resample else x, length)
        if config.normalize:
            x = x * deviation + mean
        stems = x.reshape(b, length, len(config.sources), channels).transpose(0, 2, 3, 1)
        stems = take_stems(stems, config.sources, sources)
        return stems if lengths is None else cut_off(stems, lengths[:, None, None])


class Encoder(nn.Module):
    """One level down: (b, t, h) to about t / stride positions of the level's features.

    Attributes:
      config: of the network.
      level: counted from 0, the outermost.
      dtype: of the computation.
    """

    config: DemucsConfig
    level: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h"]) -> Float[Array, "b u g"]:
        """Apply the level."""
        config, dtype = self.config, self.dtype
        features = config.width * config.growth**self.level
        x = StridedConv(features, config.kernel, config.stride, dtype=dtype, name="conv")(x)
        x = gelu(_norm(self, "norm1")(x))
        if config.residual.where in ("encoder", "both"):
            x = ResidualBranches(config.residual, self.level, dtype, name="residual")(x)
        if not config.rewrite:
            return x
        return glu(_norm(self, "norm2")(Projection(2 * features, dtype, name="rewrite")(x)))


class Decoder(nn.Module):
    """One level up, of the sum of what is below and the skip; attributes as in `Encoder`."""

    config: DemucsConfig
    level: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b u g"]) -> Float[Array, "b t h"]:
        """Apply the level."""
        config, dtype = self.config, self.dtype
        outermost = self.level == 0
        features = (
            config.channels * len(config.sources) if outermost else config.width * config.growth ** (self.level - 1)
        )
        if config.rewrite:
            x = glu(_norm(self, "norm1")(TimeConv(2 * x.shape[-1], dtype=dtype, name="rewrite")(x)))
        if config.residual.where in ("decoder", "both"):
            x = ResidualBranches(config.residual, self.level, dtype, name="residual")(x)
        x = TransposedConv(features, config.kernel, config.stride, dtype, name="conv")(x)
        return x if outermost else gelu(_norm(self, "norm2")(x))


def _norm(module: Encoder | Decoder, name: str):
    """Return the group norm of that name, or the identity in the levels that have none."""
    config = module.config
    if module.level < config.norm_from:
        return lambda x: x
    return GroupNorm(config.norm_groups, dtype=module.dtype, name=name)


def _centre(x: Float[Array, "b t h"], length: int) -> Float[Array, "b u h"]:
    """Cut `x` to `length` on both sides alike."""
    return x[:, (x.shape[1] - length) // 2 :][:, :length]
