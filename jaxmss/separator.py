"""Separate waveforms: one segment in one pass, or a track of any length segment by segment."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss import models
from jaxmss.cascade import Cascade, Stage, average, cascade_of
from jaxmss.chunking import Block, Chunking, Stems
from jaxmss.config import check
from jaxmss.errors import AudioError, InputError, suggest
from jaxmss.levels import Level, measure
from jaxmss.options import AS_PUBLISHED, Options
from jaxmss.prefetch import prefetch
from jaxmss.refinement import check_complete, distribute_residual, filter_blocks
from jaxmss.typing import Array, DTypeLike, Float, Int, Variables


@dataclass(frozen=True)
class Separator:
    """A network with its weights.

    Calling it maps one segment, a mixture (b, c, t) of any t, to its stems (b, j, c, t) in one pass.

    Attributes:
      config: of the network.
      variables: its parameters and statistics.
      dtype: inside the network, float32 or bfloat16.
    """

    config: Any
    variables: Variables
    dtype: DTypeLike = jnp.float32

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stems, in output order."""
        return self.config.sources

    @property
    def sample_rate(self) -> int:
        """Rate of the audio that the network takes, in Hz."""
        return self.config.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels that the network takes."""
        return self.config.channels

    @cached_property
    def _apply(self):
        network = models.build(self.config, self.dtype)
        return jax.jit(network.apply, static_argnames="sources")

    def __call__(
        self,
        mixture: Float[Array, "b c t"],
        sources: Iterable[str] | None = None,
        lengths: Any = None,
    ) -> Float[Array, "b j c t"]:
        """Estimate `sources` (default: all) of `mixture` at the model's rate.

        With `lengths`, one whole number for each example, example `b` ends after ``lengths[b]`` samples. Each new shape
        is compiled once. Raises `InputError` for a mixture or lengths of another shape, or an unknown source.
        """
        mixture = jnp.asarray(mixture, jnp.float32)
        if mixture.ndim != 3 or mixture.shape[1] != self.channels or not len(mixture):
            raise InputError(f"The mixture has shape {mixture.shape}; it must be (batch, {self.channels}, samples)")
        if lengths is not None:
            lengths = _checked_lengths(lengths, *mixture.shape[::2])
        return self._apply(self.variables, mixture, lengths, sources=self.chosen(sources))

    def chosen(self, sources: Iterable[str] | None) -> tuple[str, ...]:
        """Return `sources` as a tuple, all of the model's for None; raise `InputError` for an unknown one
        or one named twice."""
        return choose(sources, self.sources)

    def chunking(self, options: Options) -> Chunking:
        """Return the chunking of `options` in samples of the model's rate."""
        return chunking_of(self.config, options)

    def plan(self, sources: tuple[str, ...], options: Options) -> tuple[Cascade, ...]:
        """Return how a track is separated into `sources`: by this one network."""
        check_complete(sources, self.sources, options)
        normalized = getattr(self.config, "normalize_track", False)
        stage = Stage(self, sources, (1.0,) * len(sources), normalized=normalized)
        return (cascade_of([stage], sources, self.chunking(options), options),)


def _checked_lengths(lengths: Any, examples: int, samples: int) -> Int[Array, " b"]:
    counts = np.asarray(lengths)
    whole = counts.shape == (examples,) and np.issubdtype(counts.dtype, np.integer)
    if not whole or counts.min() < 0 or counts.max() > samples:
        raise InputError(f"The lengths {lengths} cannot be used: give {examples} whole numbers from 0 to {samples}")
    return jnp.asarray(counts, jnp.int32)


@runtime_checkable
class Model(Protocol):
    """What separates tracks: a `Separator`, or several networks composed (`jaxmss.composed.ComposedSeparator`)."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stems."""

    @property
    def sample_rate(self) -> int:
        """Rate of the audio, in Hz."""

    @property
    def channels(self) -> int:
        """Channels of the audio."""

    def chosen(self, sources: Iterable[str] | None) -> tuple[str, ...]:
        """Return `sources` as a tuple, all for None; raise `InputError` for what cannot be chosen."""

    def plan(self, sources: tuple[str, ...], options: Options) -> tuple[Cascade, ...]:
        """Return the cascades whose estimates of a stem are averaged by weight; raise `InputError` for impossible
        options."""


def choose(sources: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return `sources` as a tuple, or all of `known` for None; raise `InputError` for an unknown one or one named
    twice."""
    sources = (sources,) if isinstance(sources, str) else sources
    chosen = known if sources is None else tuple(sources)
    for source in chosen:
        if source not in known:
            raise InputError(f"The model has no stem {source!r}{suggest(source, known)}")
    check(len(chosen) > 0, "sources", chosen, "name at least one stem")
    check(len(set(chosen)) == len(chosen), "sources", chosen, "name each stem once")
    return chosen


def chunking_of(config: Any, options: Options) -> Chunking:
    """Return the chunking of `options` for the network of `config`, in samples of its rate.

    Networks whose config tells the windows that suit them have segments in the middle of those. The step from segment
    to segment is rounded down, as in Demucs.
    """
    seconds = config.segment if options.segment is None else options.segment
    context = config.context if options.context is None else options.context
    share = getattr(config, "overlap", 0.0) if options.overlap is None else options.overlap
    segment = round(seconds * config.sample_rate)
    overlap = min(segment - int((1 - share) * segment), segment // 2)
    return Chunking(segment, round(context * config.sample_rate), overlap, getattr(config, "windows", None))


def separate(
    model: Model,
    waveform: Float[np.ndarray, "c t"],
    sources: Iterable[str] | None = None,
    options: Options = AS_PUBLISHED,
) -> Float[np.ndarray, "j c t"]:
    """Separate a track of any length at the model's rate into `sources` (default: all), in the order given.

    A mono waveform (1, t) is given to every channel of the model, and its stems are averaged back to one.
    Raises `InputError` for an unknown source, `AudioError` for a waveform of another shape or with samples that are not
    finite.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 2 or waveform.shape[0] not in (1, model.channels):
        raise AudioError(f"The waveform has shape {waveform.shape}; it must be ({model.channels} or 1, samples)")
    if not np.isfinite(waveform).all():
        first = np.flatnonzero(~np.isfinite(waveform).all(0))[0]
        raise AudioError(f"The waveform is not finite at sample {first}; mend it first")
    chosen = model.chosen(sources)
    full = np.broadcast_to(waveform, (model.channels, waveform.shape[1]))
    level = measure([full]) if needs_level(model, chosen, options) else None
    stems = list(separate_blocks(model, [full], chosen, options, level))
    if not stems:
        return np.zeros((len(chosen), *waveform.shape), np.float32)
    estimate = np.concatenate(stems, axis=-1)
    estimate = distribute_residual(estimate, full) if options.consistent else estimate
    return estimate if waveform.shape[0] == model.channels else estimate.mean(1, keepdims=True)


def needs_level(model: Model, sources: tuple[str, ...], options: Options) -> bool:
    """Return whether `separate_blocks` has to be told the level of a track."""
    return any(cascade.normalized for cascade in model.plan(sources, options))


def separate_blocks(
    model: Model, blocks: Iterable[Block], sources: tuple[str, ...], options: Options, level: Level | None = None
) -> Generator[Stems, None, None]:
    """Separate a stream of blocks of any size into a stream of stems, as long in total, in bounded memory.

    Blocks are read ahead in a thread of their own while networks compute: the samples of a batch or so, if blocks are
    of a second. `level` is what `measure` gives for the stream, where the model needs it (`needs_level`). Stems are
    filtered as `options` say, but it is for the caller to make them consistent with what it has read.
    """
    cascades = model.plan(sources, options)
    ahead = max(cascade.chunking.window * cascade.batch_size for cascade in cascades) // model.sample_rate + 1
    with prefetch(blocks, ahead) as ready:
        mixture, *copies = itertools.tee(ready, len(cascades) + 1)
        streams = [cascade.separate(copy, level) for cascade, copy in zip(cascades, copies, strict=True)]
        del copies  # nobody else may hold on to what has been read
        stems = average(cascades, streams, sources)
        if options.wiener:
            stems = filter_blocks(stems, mixture, model.sample_rate, options.wiener)
        else:
            del mixture
        yield from stems
