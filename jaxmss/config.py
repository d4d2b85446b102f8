"""Configurations of networks: frozen dataclasses that check themselves, written as JSON beside each checkpoint."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from jaxmss.errors import InputError, suggest

LONGEST = 600.0  # seconds of a segment or its context; far more fits no machine's memory


@dataclass(frozen=True)
class MapConvention:
    """How a network's last axis holds its maps, and which of them are bounded by tanh.

    Attributes:
      order: within one source, "map-channel-subband" (CWS-PResUNet) or "channel-map-subband" (bytesep).
      bounded_phase: whether tanh bounds the two phase maps.
      bounded_residual: whether tanh bounds the residual map.
    """

    order: Literal["map-channel-subband", "channel-map-subband"]
    bounded_phase: bool
    bounded_residual: bool


CWS = MapConvention("map-channel-subband", bounded_phase=False, bounded_residual=False)
BYTESEP_SUBBAND = MapConvention("channel-map-subband", bounded_phase=True, bounded_residual=True)
BYTESEP_FULLBAND = MapConvention("channel-map-subband", bounded_phase=True, bounded_residual=False)


@dataclass(frozen=True)
class ResUNetConfig:
    """One phase-aware ResUNet on (subband) spectrograms; every published network of the family is a value of it.

    Attributes:
      sources: names of the stems, in output order.
      sample_rate: of the audio, in Hz.
      channels: audio channels.
      subbands: of the filter bank: 1 (none), 2, 4 or 8.
      tail_padding: whether the filter bank is given 64 zeros to ring out.
      n_fft: STFT window in samples of a subband; even.
      hop: STFT hop in samples of a subband.
      magnitude_floor: least squared magnitude of a bin.
      maps: how the last axis holds the maps.
      block: kind of block, "residual" (two 3x3 convolutions) or "mobilenet" (depthwise separable).
      widths: features of the encoder's levels; the decoder mirrors them.
      blocks: blocks of each level.
      bottleneck_levels: levels without pooling between encoder and decoder.
      head_blocks: blocks before the last 1x1 convolution.
      separate_heads: whether each source has a head of its own.
      last_pooling: average pooling of the last encoder level over (frames, bins); 2x2 on the others.
      upsampling: of the decoder: "stride2" (3x3 transposed convolution, cropped), "patch" (kernel = stride) or
        "nearest" (then a 1x1 convolution).
      absolute_gain: whether a residual block's second norm multiplies by ``|gain| + 1e-5``.
      block_norm_momentum: share of a new batch in the running statistics of the norms inside blocks.
      decoder_norm_momentum: the same for the norms before up-sampling.
      segment: seconds of a track that are separated at a time.
      context: seconds before and after a segment that the network sees with it.
    """

    sources: tuple[str, ...]
    sample_rate: int = 44100
    channels: int = 2
    subbands: int = 4
    tail_padding: bool = False
    n_fft: int = 512
    hop: int = 110
    magnitude_floor: float = 1e-8
    maps: MapConvention = CWS
    block: Literal["residual", "mobilenet"] = "residual"
    widths: tuple[int, ...] = (32, 64, 128, 256, 384, 384)
    blocks: int = 4
    bottleneck_levels: int = 4
    head_blocks: int = 4
    separate_heads: bool = False
    last_pooling: tuple[int, int] = (2, 2)
    upsampling: Literal["stride2", "patch", "nearest"] = "stride2"
    absolute_gain: bool = False
    block_norm_momentum: float = 0.01
    decoder_norm_momentum: float = 0.1
    segment: float = 10.0
    context: float = 1.5

    def __post_init__(self) -> None:
        check_track_fields(self)
        check(self.subbands in (1, 2, 4, 8), "subbands", self.subbands, "choose 1, 2, 4 or 8")
        for name in ("hop", "blocks", "bottleneck_levels", "head_blocks"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "it must be at least 1")
        check(bool(self.widths) and min(self.widths) >= 1, "widths", self.widths, "give a width for each level")
        check(set(self.last_pooling) <= {1, 2}, "last_pooling", self.last_pooling, "pool by 1 or 2")
        check(0 < self.magnitude_floor < 1, "magnitude_floor", self.magnitude_floor, "it must be above 0 and below 1")
        for name in ("block_norm_momentum", "decoder_norm_momentum"):
            check(0 < getattr(self, name) <= 1, name, getattr(self, name), "it must be above 0 and at most 1")
        check(self.n_fft % 2 == 0, "n_fft", self.n_fft, "it must be even")
        bins = self.n_fft // 2
        fold = 2 ** (len(self.widths) - 1) * self.last_pooling[1]
        check(bins % fold == 0, "n_fft", self.n_fft, f"half of it must be a multiple of {fold}, for the pooling")
        check(self.hop <= bins, "hop", self.hop, f"it must be at most half of n_fft (={self.n_fft})")

    @property
    def frame_multiple(self) -> int:
        """Frames are zero-padded to a multiple of this, so that every pooling comes out even."""
        return 2 ** (len(self.widths) - 1) * self.last_pooling[0]


@dataclass(frozen=True)
class SpleeterConfig:
    """One Spleeter: a U-Net for each source on the magnitudes of the spectrogram.

    Attributes:
      sources: names of the stems, in output order.
      sample_rate: of the audio, in Hz.
      channels: audio channels.
      n_fft: STFT window in samples.
      hop: STFT hop in samples.
      bins: lowest bins that the U-Nets see; those above come out silent.
      frames_per_chunk: STFT frames that the U-Nets see at a time.
      widths: features of the levels on the way down; those on the way up mirror them.
      segment: seconds of a track that are separated at a time.
      context: seconds before and after a segment that the network sees with it. By default a segment with its context
        is exactly one chunk.
    """

    sources: tuple[str, ...] = ("vocals", "accompaniment")
    sample_rate: int = 44100
    channels: int = 2
    n_fft: int = 4096
    hop: int = 1024
    bins: int = 1024
    frames_per_chunk: int = 512
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    segment: float = 511 * 1024 / 44100 - 2.0
    context: float = 1.0

    def __post_init__(self) -> None:
        check_track_fields(self)
        check(bool(self.widths) and min(self.widths) >= 1, "widths", self.widths, "give a width for each level")
        check(self.hop >= 1, "hop", self.hop, "it must be at least 1")
        fold = 2 ** len(self.widths)
        for name in ("bins", "frames_per_chunk"):
            value = getattr(self, name)
            check(value >= fold and value % fold == 0, name, value, f"it must be a multiple of {fold}, for the strides")
        half = self.n_fft // 2
        check(self.n_fft % 2 == 0 and half >= self.bins, "n_fft", self.n_fft, f"it must be even, with {self.bins} bins")
        check(self.hop <= half, "hop", self.hop, f"it must be at most half of n_fft (={self.n_fft})")


@dataclass(frozen=True)
class Windows:
    """The lengths of input that suit a network: `least` samples, and any number of `step` more."""

    least: int
    step: int = 1

    def holding(self, samples: Any) -> Any:
        """Return the length that holds a number of `samples`, or lengths that hold an array of numbers."""
        more = samples - self.least
        return self.least + -(-more * (more > 0) // self.step) * self.step


def check_track_fields(config: Any) -> None:
    """Check what every kind of config holds: stems, rate, channels, segment and context.

    A stem's name becomes a file's name, and a config may come from anywhere: no name may leave its folder.
    """
    for source in config.sources:
        plain = bool(source) and not source.startswith(".") and not set(source) & {"/", "\\", "\0"}
        check(plain, "sources", config.sources, "a stem's name must be that of a file: no '/', no '.' before it")
    check(len(config.sources) > 0, "sources", config.sources, "name at least one stem")
    check(len(set(config.sources)) == len(config.sources), "sources", config.sources, "name each stem once")
    check(1 <= config.sample_rate <= 1_000_000, "sample_rate", config.sample_rate, "it must be 1 to 1,000,000 Hz")
    check(1 <= config.channels <= 64, "channels", config.channels, "it must be 1 to 64")
    check(0 < config.segment <= LONGEST, "segment", config.segment, f"it must be above 0 s and at most {LONGEST:.0f} s")
    check(0 <= config.context <= LONGEST, "context", config.context, f"it must be 0 to {LONGEST:.0f} s")


def check(condition: bool, field: str, value: object, remedy: str) -> None:
    """Raise `InputError` that quotes the field and its value unless `condition` holds."""
    if not condition:
        raise InputError(f"{field!r} (={value!r}) cannot be used: {remedy}")


def to_json(config: Any) -> dict[str, Any]:
    """Return a config as what JSON can hold."""
    return dataclasses.asdict(config)


def from_json(kind: type, values: Any) -> Any:
    """Build a config of class `kind` from what `to_json` gave; raise `InputError` that names what does not fit."""
    if not isinstance(values, dict):
        raise InputError(f"A config must be a JSON object, not {values!r}")
    fields = typing.get_type_hints(kind)
    for name in values:
        if name not in fields:
            raise InputError(f"Config field {name!r} is not one of {kind.__name__}{suggest(name, fields)}")
    for field in dataclasses.fields(kind):
        absent = field.name not in values and field.default is field.default_factory is dataclasses.MISSING
        if absent:
            raise InputError(f"{kind.__name__} {values!r} lacks the field {field.name!r}; give it")
    return kind(**{name: converted(fields[name], name, value) for name, value in values.items()})


def converted(hint: Any, name: str, value: Any) -> Any:
    """Return `value`, the JSON of a field, as what its type `hint` says; raise `InputError` if it does not fit."""
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else converted(_alternative(arguments, value), name, value)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis:
            check(len(value) == len(arguments), name, value, f"give {len(arguments)} values")
        return tuple(converted(arguments[0], name, item) for item in value)
    if origin is typing.Literal:
        check(value in arguments, name, value, f"choose from {', '.join(map(repr, arguments))}")
        return value
    wanted = (int, float) if hint is float else hint
    fits = origin is None and isinstance(value, wanted) and not (isinstance(value, bool) and hint is not bool)
    check(fits, name, value, f"it must be of type {getattr(hint, '__name__', hint)}")
    if hint is float and isinstance(value, int):
        check(abs(value) < 2**1023, name, value, "it is too large")
        return float(value)
    return value


def _alternative(hints: tuple[Any, ...], value: Any) -> Any:
    """Return, of kinds of configs, the one whose fields `value` has: no two have the same; the first if none has."""
    kinds = [hint for hint in hints if dataclasses.is_dataclass(hint)]
    names = set(value) if isinstance(value, dict) else set()
    return next(
        (kind for kind in kinds if names and names <= {field.name for field in dataclasses.fields(kind)}), hints[0]
    )
