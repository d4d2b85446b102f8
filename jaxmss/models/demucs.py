"""Demucs in time, waveform to waveforms: strided convolutions down and up, with skips.

Défossez, Usunier, Bottou, Bach: Music Source Separation in the Waveform Domain, 2019, figure 2; with the residual
branches of Défossez, MDX workshop 2021.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmss.demucs_config import DemucsConfig
from jaxmss.models.demucs_convolutions import Projection, StridedConv, TimeConv, TransposedConv
from jaxmss.models.demucs_layers import GroupNorm, ResidualBranches, gelu, glu, normalized
from jaxmss.models.layers import Lengths, take_stems, zero_after
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

        With `lengths`, example `b` ends after ``lengths[b]`` samples, and its stems are what they would be if the
        mixture did.
        """
        config = self.config
        sources = config.sources if sources is None else sources
        if lengths is not None:
            mixture = cut_off(mixture, lengths[:, None])
        b, channels, length = mixture.shape
        x = mixture.swapaxes(1, 2)
        if config.normalize:
            x, mean, deviation = normalized(x, deviating=x.mean(2), lengths=lengths)
            x = zero_after(x, lengths)
        missing = config.windows.holding(length) - length
        x = jnp.pad(x, [(0, 0), (missing // 2, missing - missing // 2), (0, 0)])
        ends = late = None
        if lengths is not None:  # in the middle of what holds it, which begins with the input
            ends = config.windows.holding(lengths)
            late = missing // 2 - (ends - lengths) // 2
            x = _delay(x, -late)
        if config.resample:
            x = double_rate(_hold(x, ends))
            ends = None if ends is None else 2 * ends
        x = x.astype(self.dtype)

        remat = nn.remat if self.remat else lambda level: level
        skips = []
        for level in range(config.depth):
            ends = None if ends is None else (ends - config.kernel) // config.stride + 1
            x = remat(Encoder)(config, level, self.dtype, name=f"encoder_{level}")(x, ends)
            skips.append(x)
        for level in reversed(range(config.depth)):
            x = x + skips.pop()
            x = remat(Decoder)(config, level, self.dtype, name=f"decoder_{config.depth - 1 - level}")(x, ends)
            ends = None if ends is None else (ends - 1) * config.stride + config.kernel

        x = x.astype(jnp.float32)
        x = halve_rate(_hold(x, ends)) if config.resample else x
        if late is not None:
            x = _delay(x, late)
        x = x[:, missing // 2 :][:, :length]
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
    def __call__(self, x: Float[Array, "b t h"], lengths: Lengths | None = None) -> Float[Array, "b u g"]:
        """Apply the level; `lengths` are those of its result, where an example ends earlier."""
        config, dtype = self.config, self.dtype
        features = config.width * config.growth**self.level
        x = StridedConv(features, config.kernel, config.stride, dtype=dtype, name="conv")(x)
        x = gelu(_norm(self, "norm1")(x, lengths))
        if config.residual.where in ("encoder", "both"):
            x = ResidualBranches(config.residual, self.level, dtype, name="residual")(x, lengths)
        if not config.rewrite:
            return x
        return glu(_norm(self, "norm2")(Projection(2 * features, dtype, name="rewrite")(x), lengths))


class Decoder(nn.Module):
    """One level up, of the sum of what is below and the skip; attributes as in `Encoder`."""

    config: DemucsConfig
    level: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b u g"], lengths: Lengths | None = None) -> Float[Array, "b t h"]:
        """Apply the level to `x`, of which only `lengths` count where examples end earlier."""
        config, dtype = self.config, self.dtype
        outermost = self.level == 0
        features = (
            config.channels * len(config.sources) if outermost else config.width * config.growth ** (self.level - 1)
        )
        if config.rewrite:
            x = TimeConv(2 * x.shape[-1], dtype=dtype, name="rewrite")(x, lengths)
            x = glu(_norm(self, "norm1")(x, lengths))
        if config.residual.where in ("decoder", "both"):
            x = ResidualBranches(config.residual, self.level, dtype, name="residual")(x, lengths)
        x = TransposedConv(features, config.kernel, config.stride, dtype, name="conv")(zero_after(x, lengths))
        if lengths is not None:
            lengths = (lengths - 1) * config.stride + config.kernel
        return x if outermost else gelu(_norm(self, "norm2")(x, lengths))


def _norm(module: Encoder | Decoder, name: str):
    """Return the group norm of that name, or the identity in the levels that have none."""
    config = module.config
    if module.level < config.norm_from:
        return lambda x, lengths: x
    return GroupNorm(config.norm_groups, dtype=module.dtype, name=name)


def _delay(x: Float[Array, "b t h"], positions: Int[Array, " b"]) -> Float[Array, "b t h"]:
    """Move each example by so many positions, or back where they are negative, round the end."""
    return jax.vmap(lambda example, by: jnp.roll(example, by, axis=0))(x, positions)


def _hold(x: Float[Array, "b t h"], lengths: Lengths | None) -> Float[Array, "b t h"]:
    """Repeat the last of the first ``lengths`` positions of each example, as filters do past the end of a signal."""
    if lengths is None:
        return x
    place = jnp.minimum(jnp.arange(x.shape[1]), lengths[:, None] - 1)
    return jnp.take_along_axis(x, place[..., None], axis=1)
