"""Networks that share the windows of a track: one alone, or several of which some hear what others have left."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss.chunking import Block, Chunking, Segment, Stems, cut, join
from jaxmss.config import check
from jaxmss.errors import InputError, memory_is_full
from jaxmss.levels import Level
from jaxmss.options import Options
from jaxmss.prefetch import while_wanted
from jaxmss.typing import Array, Float, Int


@runtime_checkable
class Network(Protocol):
    """What separates windows: a `Separator`, or anything alike."""

    @property
    def config(self) -> Any:
        """Of the network: its stems, rate and channels, and how a track is cut for it."""

    def __call__(
        self, mixture: Float[Array, "b c t"], sources: tuple[str, ...], lengths: Int[np.ndarray, " b"]
    ) -> Float[Array, "b j c t"]:
        """Estimate `sources` of windows, each of which ends after ``lengths[b]`` samples."""


@dataclass(frozen=True)
class Stage:
    """One network of a cascade.

    Attributes:
      network: that is run.
      stems: that are taken from it.
      weights: of each stem, beside those of other stages and cascades.
      minus: stems of earlier stages that are subtracted from the mixture before.
      normalized: whether the network hears the track at mean 0 and deviation 1.
    """

    network: Network
    stems: tuple[str, ...]
    weights: tuple[float, ...]
    minus: tuple[str, ...] = ()
    normalized: bool = False


@dataclass(frozen=True)
class Cascade:
    """Stages that run one after the other on each window of a track.

    Attributes:
      stages: in an order in which each one subtracts only stems that are complete.
      stems: that are wanted.
      chunking: of the track.
      delays: as `cut` takes them.
      batch_size: windows that a network is given at once.
    """

    stages: tuple[Stage, ...]
    stems: tuple[str, ...]
    chunking: Chunking
    delays: tuple[int, ...] = (0,)
    batch_size: int = 1

    @property
    def normalized(self) -> bool:
        """Whether any stage needs the level of the track."""
        return any(stage.normalized for stage in self.stages)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each wanted stem: the sum of those of its stages."""
        return tuple(self._weight(stem) for stem in self.stems)

    def _weight(self, stem: str) -> float:
        given = [dict(zip(stage.stems, stage.weights, strict=True)) for stage in self.stages]
        return sum(weights.get(stem, 0.0) for weights in given)

    def separate(self, blocks: Iterable[Block], level: Level | None = None) -> Iterator[Stems]:
        """Separate a stream of blocks (c, t) of any size into a stream of the wanted stems, as long in total.

        Raises `ValueError` without the `level` of the track where a stage needs it.
        """
        if level is None and self.normalized:
            raise ValueError("a network hears the track at mean 0 and deviation 1: measure its level first")
        segments = while_wanted(cut(blocks, self.chunking, self.delays))
        return join(self._estimate(segments, level or Level(0.0, 1.0)), self.chunking, len(self.delays))

    def _estimate(self, segments: Iterator[Segment], level: Level) -> Iterator[tuple[Segment, Stems]]:
        """Run the networks over batches of one size, so that one program of each serves every track."""
        while batch := list(itertools.islice(segments, self.batch_size)):
            absent = self.batch_size - len(batch)
            try:
                mixture = np.stack([segment.audio for segment in batch] + [np.zeros_like(batch[0].audio)] * absent)
                lengths = np.array([segment.length for segment in batch] + [0] * absent, np.int32)
                inside = np.array([segment.inside for segment in batch] + [(0, 0)] * absent)
                estimates = self._run(mixture, lengths, inside, level)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not memory_is_full(error):
                    raise
                window = self.chunking.window / self.stages[0].network.config.sample_rate
                raise InputError(
                    f"The memory does not hold {self.batch_size} windows of {window:.1f} s at once; "
                    "choose a smaller batch size, segment or context"
                ) from error
            yield from zip(batch, estimates, strict=False)

    def _run(
        self,
        mixture: Float[np.ndarray, "b c t"],
        lengths: Int[np.ndarray, " b"],
        inside: Int[np.ndarray, "b 2"],
        level: Level,
    ) -> Float[np.ndarray, "b j c t"]:
        made: dict[str, list[tuple[np.ndarray, float]]] = {}
        for stage in self.stages:
            heard = mixture
            for stem in stage.minus:
                heard = heard - _mean(made[stem])
            if stage.normalized:
                heard = _normalized(heard, inside, level)
            estimates = np.asarray(stage.network(jnp.asarray(heard), stage.stems, lengths))
            if stage.normalized:
                estimates = estimates * np.float32(level.scale) + np.float32(level.mean)
            for row, (stem, weight) in enumerate(zip(stage.stems, stage.weights, strict=True)):
                made.setdefault(stem, []).append((estimates[:, row], weight))
        return np.stack([_mean(made[stem]) for stem in self.stems], axis=1)


def cascade_of(stages: Sequence[Stage], stems: tuple[str, ...], chunking: Chunking, options: Options) -> Cascade:
    """Return the cascade that separates a track as `options` say: cut once, or at several random places.

    The places are drawn from a fixed seed, so that the same track gives the same stems. Raises `InputError` if a
    transformer were to hear more at once than in training: it knows no positions beyond.
    """
    for stage in stages:
        _check_heard(stage.network.config, chunking)
    shifts = options.shifts or 1
    furthest = stages[0].network.config.sample_rate // 2
    drawn = np.random.default_rng(0).integers(0, furthest + 1, shifts).tolist() if shifts > 1 else [0]
    return Cascade(tuple(stages), stems, chunking, tuple(drawn), options.batch_size)


def _check_heard(config: Any, chunking: Chunking) -> None:
    if getattr(config, "transformer", None):
        longest, rate = config.segment, config.sample_rate
        remedy = f"with its context on both sides it must be at most {longest:g} s, as in training"
        check(chunking.window <= round(longest * rate), "segment", chunking.segment / rate, remedy)


def average(
    cascades: Sequence[Cascade], streams: Sequence[Iterator[Stems]], sources: tuple[str, ...]
) -> Iterator[Stems]:
    """Average the streams of stems that cascades make of one track, by weight, into one stream of `sources`.

    Whichever stream lags behind is run next, so that none has to be held for longer than a block of another.
    """
    if len(cascades) == 1 and cascades[0].stems == sources:
        yield from streams[0]
        return
    held: list[Stems | None] = [None] * len(streams)
    while True:
        held = [next(stream, None) if block is None else block for stream, block in zip(streams, held, strict=True)]
        if any(block is None for block in held):  # they are as long as one another
            return
        blocks = [block for block in held if block is not None]
        count = min(block.shape[-1] for block in blocks)
        made: dict[str, list[tuple[np.ndarray, float]]] = {source: [] for source in sources}
        for cascade, block in zip(cascades, blocks, strict=True):
            for stem, weight, estimate in zip(cascade.stems, cascade.weights, block, strict=True):
                made[stem].append((estimate[:, :count], weight))
        yield np.stack([_mean(estimates) for estimates in made.values()])
        held = [block[..., count:] if block.shape[-1] > count else None for block in blocks]


def _mean(weighed: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Return the mean of estimates by weight; one alone as it is."""
    if len(weighed) == 1:
        return weighed[0][0]
    total = sum(weight for _, weight in weighed)
    return np.sum([estimate * np.float32(weight / total) for estimate, weight in weighed], axis=0)


def _normalized(
    heard: Float[np.ndarray, "b c t"], inside: Int[np.ndarray, "b 2"], level: Level
) -> Float[np.ndarray, "b c t"]:
    """Bring windows to the mean 0 and the deviation 1 of the track; around it they stay as they are, zeros."""
    place = np.arange(heard.shape[-1])
    known = (place >= inside[:, :1]) & (place < inside[:, 1:])
    return (heard - np.float32(level.mean) * known[:, None].astype(np.float32)) / np.float32(level.scale)
