"""The levels of Hybrid Demucs, down and up, of its spectral branch (``b n f h``) and its temporal one (``b t h``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import flax.linen as nn
import jax.numpy as jnp

from jaxmss.demucs_config import HybridDemucsConfig
from jaxmss.models.demucs_convolutions import Conv3x3, Projection, StridedConv, TimeConv, TransposedConv
from jaxmss.models.demucs_layers import GroupNorm, ResidualBranches, gelu, glu
from jaxmss.models.layers import Lengths, zero_after
from jaxmss.typing import Array, DTypeLike, Float

Signal = Float[Array, "b *_ _"]


@dataclass(frozen=True)
class Level:
    """The measures of one level of one branch.

    Attributes:
      number: counted from 0, the outermost.
      features: inside it and below it.
      outputs: features that its decoder makes.
      kernel: length of its strided convolution.
      stride: of it.
      padding: zeros that the encoder adds on either side, and the decoder cuts off.
      bands: edges of the frequency bands that have weights of their own, as shares; () for one band.
    """

    number: int
    features: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    bands: tuple[float, ...] = ()


def spectral_levels(config: HybridDemucsConfig) -> list[Level]:
    """Return the levels of the spectral branch, outermost first: along frequency until one is left, then along time."""
    levels = []
    outputs = spectral_channels(config) * len(config.sources)
    for number, frequencies in enumerate(config.frequencies):
        features = config.width * config.growth**number
        if frequencies == 1:
            stride = config.time_stride
            levels.append(Level(number, features, outputs, 2 * stride, stride, stride // 2))
        elif number == config.merging_level:
            levels.append(Level(number, features, outputs, frequencies, frequencies, 0))
        else:
            bands = config.band_edges if number < config.band_levels else ()
            levels.append(Level(number, features, outputs, config.kernel, config.stride, config.kernel // 4, bands))
        outputs = features
    return levels


def temporal_levels(config: HybridDemucsConfig) -> list[Level]:
    """Return the levels of the temporal branch, outermost first: as many as there are along frequency."""
    levels = []
    outputs = config.channels * len(config.sources)
    for number in range(sum(frequencies > 1 for frequencies in config.frequencies)):
        features = config.width * config.growth**number
        levels.append(Level(number, features, outputs, config.kernel, config.stride, config.kernel // 4))
        outputs = features
    return levels


def spectral_channels(config: HybridDemucsConfig) -> int:
    """Return the features of one spectrogram: real and imaginary parts, or magnitudes, of each channel."""
    return config.channels * (2 if config.output == "complex" else 1)


class Encoder(nn.Module):
    """One level down.

    Attributes:
      config: of the network.
      level: of the branch.
      dtype: of the computation.
      outer: whether the zeros before and after the axis belong to this part of it: not between bands.
    """

    config: HybridDemucsConfig
    level: Level
    dtype: DTypeLike = jnp.float32
    outer: tuple[bool, bool] = (True, True)

    @nn.compact
    def __call__(self, x: Signal, lengths: Lengths | None = None, injected: Signal | None = None) -> Signal:
        """Map `x` to ``1 / stride`` of its positions, rounded up; `injected` is added to the convolved signal.

        `lengths` are those of the result in time, where an example ends earlier.
        """
        level, dtype = self.level, self.dtype
        x = encoding_conv(level, x.shape[-2], self.outer, dtype, name="conv")(x)
        if injected is not None:
            x = x + injected
        x = gelu(norm(self.config, level, dtype, "norm1")(x, lengths))
        if self.config.residual.where in ("encoder", "both"):
            x = ResidualBranches(self.config.residual, level.number, dtype, name="residual")(x, lengths)
        x = Projection(2 * level.features, dtype, name="rewrite")(x)
        return glu(norm(self.config, level, dtype, "norm2")(x, lengths))


class BandedEncoder(nn.Module):
    """One level down with weights of their own for each band of frequencies; attributes as in `Encoder`."""

    config: HybridDemucsConfig
    level: Level
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f _"], lengths: Lengths | None = None) -> Float[Array, "b n g _"]:
        """Apply to each band the convolution steps that end in it, and join the results."""
        level, frequencies = self.level, x.shape[2]
        start, parts = 0, []
        for number, edge in enumerate((*level.bands, 1.0)):
            first, last = number == 0, edge == 1.0
            padding = level.padding if first else 0
            reach = round(frequencies * edge) - start + padding  # steps reach a little beyond the edge, or not quite
            steps = round((reach - level.kernel) / level.stride + 1)
            stop = frequencies if last else start + (steps - 1) * level.stride + level.kernel - padding
            encoder = Encoder(self.config, level, self.dtype, (first, last), name=f"band_{number}")
            parts.append(encoder(x[:, :, start:stop], lengths))
            start = stop - level.kernel + level.stride
        return jnp.concatenate(parts, axis=2)


class Decoder(nn.Module):
    """One level up, of the sum of what is below and the skip; attributes as in `Encoder`."""

    config: HybridDemucsConfig
    level: Level
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Signal, skip: Signal, lengths: Lengths | None = None) -> tuple[Signal, Signal]:
        """Return what the last convolution is given, and what it makes, uncut."""
        level, dtype = self.level, self.dtype
        along_frequency = x.ndim == 4 and not level.bands
        rewrite = Conv3x3 if along_frequency else TimeConv
        x = rewrite(2 * level.features, dtype=dtype, name="rewrite")(zero_after(x + skip, lengths))
        x = glu(norm(self.config, level, dtype, "norm1")(x, lengths))
        if self.config.residual.where in ("decoder", "both"):
            x = ResidualBranches(self.config.residual, level.number, dtype, name="residual")(x, lengths)
        return x, Enlarge(self.config, level, dtype, name="enlarge")(x, lengths)


class Enlarge(nn.Module):
    """The transposed convolution of a decoder and its norm; attributes as in `Encoder`."""

    config: HybridDemucsConfig
    level: Level
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Signal, lengths: Lengths | None = None) -> Signal:
        """Enlarge the last axis but one."""
        level = self.level
        x = TransposedConv(level.outputs, level.kernel, level.stride, self.dtype, name="conv")(zero_after(x, lengths))
        if lengths is not None and x.ndim == 3:
            lengths = jnp.where(lengths > 0, (lengths - 1) * level.stride + level.kernel, 0)
        return norm(self.config, level, self.dtype, "norm2")(x, lengths)


class BandedDecoder(nn.Module):
    """One level up with weights of their own for each band of frequencies; attributes as in `Encoder`."""

    config: HybridDemucsConfig
    level: Level
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n g h"], skip: Float[Array, "b n g h"], lengths: Lengths | None = None
    ) -> Float[Array, "b n f _"]:
        """Enlarge each band, and add up where they overlap; the result is uncut."""
        level = self.level
        edges = [round(x.shape[2] * edge) for edge in (0.0, *level.bands, 1.0)]
        overlap = level.kernel - level.stride
        parts: list[Array] = []
        for number, (start, stop) in enumerate(pairwise(edges)):
            decoder = Decoder(self.config, level, self.dtype, name=f"band_{number}")
            _, part = decoder(x[:, :, start:stop], skip[:, :, start:stop], lengths)
            if parts:
                bias = decoder.variables["params"]["enlarge"]["conv"]["bias"]  # both have added theirs
                shared = parts[-1][:, :, -overlap:] + part[:, :, :overlap] - bias.astype(self.dtype)
                parts[-1:] = [parts[-1][:, :, :-overlap], shared]
                part = part[:, :, overlap:]
            parts.append(part)
        return jnp.concatenate(parts, axis=2)


def encoding_conv(
    level: Level, positions: int, outer: tuple[bool, bool], dtype: DTypeLike, name: str | None = None
) -> StridedConv:
    """Return the convolution of an encoder, which adds zeros until every position is in a stride."""
    before = level.padding if outer[0] else 0
    after = level.padding + -positions % level.stride if outer == (True, True) else level.padding if outer[1] else 0
    return StridedConv(level.features, level.kernel, level.stride, (before, after), dtype, name=name)


def norm(config: HybridDemucsConfig, level: Level, dtype: DTypeLike, name: str) -> Callable[..., Array]:
    """Return the group norm of that name, or the identity in the levels that have none."""
    if level.number < config.norm_from:
        return lambda x, lengths: x
    return GroupNorm(config.norm_groups, dtype=dtype, name=name)
