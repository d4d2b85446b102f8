"""Configurations of the Demucs family: in time (v3), hybrid (v3) and hybrid with a transformer (v4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxmss.config import Windows, check, check_track_fields

MOST_LAYERS = 64  # of any kind: a config from anywhere must not take for ever to read
STEMS = ("drums", "bass", "other", "vocals")  # in the order of the published networks


@dataclass(frozen=True)
class ResidualBranch:
    """Convolutions of growing dilation beside a level's signal, in few features.

    Attributes:
      where: which levels have it: "encoder", "decoder", "both" or "none".
      depth: number of convolutions, each twice as dilated as the one before.
      compression: how many times fewer features than the level has.
      lstm_from: first level whose branches hold a bidirectional LSTM.
      attention_from: first level whose branches hold local attention.
      scale: with which each branch is added before training.
    """

    where: Literal["encoder", "decoder", "both", "none"] = "encoder"
    depth: int = 2
    compression: int = 4
    lstm_from: int = 4
    attention_from: int = 4
    scale: float = 1e-4

    def __post_init__(self) -> None:
        check(1 <= self.depth <= MOST_LAYERS, "depth", self.depth, f"it must be 1 to {MOST_LAYERS}")
        check(self.compression >= 1, "compression", self.compression, "it must be at least 1")


@dataclass(frozen=True)
class Transformer:
    """Layers of self-attention and cross-attention in turns, between the spectral and the temporal branch.

    Attributes:
      layers: of each branch; the even ones attend to their own branch, the odd ones to the other.
      heads: of each attention.
      width: features inside, or 0 for those of the deepest level.
      hidden_scale: how many times more features the feed-forward parts have.
      dropout: share of features dropped in training.
    """

    layers: int = 5
    heads: int = 8
    width: int = 512
    hidden_scale: float = 4.0
    dropout: float = 0.02

    def __post_init__(self) -> None:
        check(1 <= self.layers <= MOST_LAYERS, "layers", self.layers, f"it must be 1 to {MOST_LAYERS}")
        check(self.heads >= 1, "heads", self.heads, "it must be at least 1")
        check(self.width >= 0, "width", self.width, "it must not be negative")
        fits = self.width % math.lcm(self.heads, 4) == 0
        check(fits, "width", self.width, f"it must be a multiple of 4 and of heads (={self.heads})")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "it must be 0 to less than 1")


@dataclass(frozen=True)
class DemucsConfig:
    """One Demucs in time: strided convolutions down and up, with skips.

    Attributes:
      sources: names of the stems, in output order.
      sample_rate: of the audio, in Hz.
      channels: audio channels.
      width: features of the first level; each level has `growth` times those of the one before.
      growth: of the features.
      depth: number of levels.
      kernel: length of the strided convolutions.
      stride: of each level.
      rewrite: whether each level has a gated convolution that keeps its features, beside the strided one.
      norm_from: first level with group norms.
      norm_groups: of each group norm.
      residual: the branches beside the levels.
      normalize: whether each input is brought to mean 0 and deviation 1, and its stems back.
      resample: whether the network works at twice the rate.
      normalize_track: whether a whole track is brought to mean 0 and deviation 1 before it is cut, and its stems back.
      segment: seconds of a track that are separated at a time.
      context: seconds before and after a segment that the network sees with it, beside what fills up its strides.
      overlap: share of a segment that is cross-faded with the next.
    """

    sources: tuple[str, ...] = STEMS
    sample_rate: int = 44100
    channels: int = 2
    width: int = 64
    growth: int = 2
    depth: int = 6
    kernel: int = 8
    stride: int = 4
    rewrite: bool = True
    norm_from: int = 4
    norm_groups: int = 4
    residual: ResidualBranch = ResidualBranch()
    normalize: bool = True
    resample: bool = True
    normalize_track: bool = True
    segment: float = 40.0
    context: float = 0.0
    overlap: float = 0.25

    def __post_init__(self) -> None:
        _check_levels(self)
        whole = not self.resample or self.stride % 2 == 0
        check(whole, "stride", self.stride, "it must be even where the network works at twice the rate")

    @property
    def windows(self) -> Windows:
        """The lengths of the network's input for which no stride leaves a rest."""
        length, step = 1, self.stride**self.depth
        for _ in range(self.depth):
            length = (length - 1) * self.stride + self.kernel
        return Windows(-(-length // 2), step // 2) if self.resample else Windows(length, step)


@dataclass(frozen=True)
class HybridDemucsConfig:
    """One Hybrid Demucs: a spectral and a temporal branch that meet in the middle, by addition or in a transformer.

    Attributes:
      sources: names of the stems, in output order.
      sample_rate: of the audio, in Hz.
      channels: audio channels.
      width: features of the first level; each level has `growth` times those of the one before.
      growth: of the features.
      depth: number of levels.
      n_fft: STFT window in samples; the hop is a quarter of it.
      kernel: length of the strided convolutions.
      stride: of each level that has several frequencies.
      time_stride: of the levels after them.
      output: what the spectral branch makes: the "complex" spectrogram, or its "magnitude", to the mixture's phase.
      old_padding: whether the STFT pads with zeros, on which the networks of the MDX challenge were trained.
      band_edges: where the outermost levels' frequencies are divided into bands with weights of their own, as shares.
      band_levels: how many levels are so divided.
      embedding: weight of the embedding of frequencies after the first level; 0 for none.
      norm_from: first level with group norms.
      norm_groups: of each group norm.
      residual: the branches beside the levels.
      transformer: between encoder and decoder, or None; without it the branches meet where one frequency is left.
      normalize_track: whether a whole track is brought to mean 0 and deviation 1 before it is cut, and its stems back.
      segment: seconds of a track that are separated at a time.
      context: seconds before and after a segment that the network sees with it.
      overlap: share of a segment that is cross-faded with the next.
    """

    sources: tuple[str, ...] = STEMS
    sample_rate: int = 44100
    channels: int = 2
    width: int = 48
    growth: int = 2
    depth: int = 6
    n_fft: int = 4096
    kernel: int = 8
    stride: int = 4
    time_stride: int = 2
    output: Literal["complex", "magnitude"] = "complex"
    old_padding: bool = False
    band_edges: tuple[float, ...] = ()
    band_levels: int = 3
    embedding: float = 0.2
    norm_from: int = 4
    norm_groups: int = 4
    residual: ResidualBranch = ResidualBranch(scale=1e-3)
    transformer: Transformer | None = None
    normalize_track: bool = True
    segment: float = 40.0
    context: float = 0.0
    overlap: float = 0.25

    def __post_init__(self) -> None:
        _check_levels(self)
        fits = self.n_fft % 8 == 0 and 8 <= self.n_fft <= 1 << 20
        check(fits, "n_fft", self.n_fft, "it must be a multiple of 8, at most 1,048,576")
        check(self.time_stride >= 1, "time_stride", self.time_stride, "it must be at least 1")
        rising = all(low < high for low, high in zip((0.0, *self.band_edges), (*self.band_edges, 1.0), strict=True))
        check(rising, "band_edges", self.band_edges, "they must rise between 0 and 1")

        merging = self.merging_level
        meets = merging is not None
        where = "several frequencies must be left" if self.transformer else "only one frequency may be left"
        check(meets != bool(self.transformer), "depth", self.depth, f"{where} where the branches meet")
        if merging is not None:
            step = self.stride ** (merging + 1)
            told = f"a quarter of it must be {step}, as the temporal branch steps where it joins the spectral one"
            check(self.hop == step, "n_fft", self.n_fft, told)

    @property
    def hop(self) -> int:
        """STFT hop in samples."""
        return self.n_fft // 4

    @property
    def frequencies(self) -> tuple[int, ...]:
        """How many frequencies the spectral branch has above each level."""
        above = [self.n_fft // 2]
        while len(above) < self.depth:
            above.append(above[-1] // self.stride if above[-1] > self.kernel else 1)
        return tuple(above)

    @property
    def merging_level(self) -> int | None:
        """The level that leaves one frequency, where the temporal branch joins the spectral one; None if none does."""
        return next((level for level, above in enumerate(self.frequencies) if above <= self.kernel), None)

    @property
    def windows(self) -> Windows:
        """The lengths of the network's input: any will do; a transformer hears a whole segment, as in training."""
        return Windows(round(self.segment * self.sample_rate) if self.transformer else 1)


def _check_levels(config: DemucsConfig | HybridDemucsConfig) -> None:
    check_track_fields(config)
    for name in ("width", "growth", "norm_groups"):
        check(getattr(config, name) >= 1, name, getattr(config, name), "it must be at least 1")
    check(1 <= config.depth <= MOST_LAYERS, "depth", config.depth, f"it must be 1 to {MOST_LAYERS}")
    check(
        config.residual.compression <= config.width,
        "residual.compression",
        config.residual.compression,
        "no features are left",
    )
    check(config.stride >= 2, "stride", config.stride, "it must be at least 2")
    whole = config.kernel >= config.stride and config.kernel % config.stride == 0
    check(whole, "kernel", config.kernel, f"it must be a multiple of the stride (={config.stride})")
    check(0 <= config.overlap <= 0.5, "overlap", config.overlap, "it must be 0 to 0.5")
