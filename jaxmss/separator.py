"""Separate waveforms: one segment in one pass, or a track of any length segment by segment."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss import models
from jaxmss.chunking import Block, Chunking, Segment, Stems, cut, join
from jaxmss.config import check
from jaxmss.errors import AudioError, InputError, suggest
from jaxmss.options import AS_PUBLISHED, Options
from jaxmss.prefetch import prefetch
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
        sources = (sources,) if isinstance(sources, str) else sources
        chosen = self.sources if sources is None else tuple(sources)
        for source in chosen:
            if source not in self.sources:
                raise InputError(f"The model has no stem {source!r}{suggest(source, self.sources)}")
        check(len(chosen) > 0, "sources", chosen, "name at least one stem")
        check(len(set(chosen)) == len(chosen), "sources", chosen, "name each stem once")
        return chosen

    def chunking(self, options: Options) -> Chunking:
        """Return the chunking of `options` in samples of the model's rate."""
        seconds = self.config.segment if options.segment is None else options.segment
        context = self.config.context if options.context is None else options.context
        segment = round(seconds * self.sample_rate)
        return Chunking(segment, round(context * self.sample_rate), int(segment * options.overlap))


def _checked_lengths(lengths: Any, examples: int, samples: int) -> Int[Array, " b"]:
    counts = np.asarray(lengths)
    whole = counts.shape == (examples,) and np.issubdtype(counts.dtype, np.integer)
    if not whole or counts.min() < 0 or counts.max() > samples:
        raise InputError(f"The lengths {lengths} cannot be used: give {examples} whole numbers from 0 to {samples}")
    return jnp.asarray(counts, jnp.int32)


def separate(
    model: Separator,
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
    stems = list(separate_blocks(model, [full], chosen, options))
    if not stems:
        return np.zeros((len(chosen), *waveform.shape), np.float32)
    estimate = np.concatenate(stems, axis=-1)
    return estimate if waveform.shape[0] == model.channels else estimate.mean(1, keepdims=True)


def separate_blocks(
    model: Separator, blocks: Iterable[Block], sources: tuple[str, ...], options: Options
) -> Generator[Stems, None, None]:
    """Separate a stream of blocks of any size into a stream of stems, as long in total, in bounded memory.

    Blocks are read ahead in a thread of their own while the network computes.
    """
    chunking = model.chunking(options)
    # the displacements are drawn once, from a fixed seed: the same track gives the same stems
    shifts = np.random.default_rng(0).integers(0, min(chunking.context, model.sample_rate // 2) + 1, options.shifts)
    segments = cut(blocks, chunking, shifts.tolist() if options.shifts > 1 else (0,))
    with prefetch(segments, ahead=options.batch_size) as ready:
        estimates = _estimate(model, ready, sources, options.batch_size)
        yield from join(_averaged(estimates, options.shifts), chunking.overlap)


def _estimate(
    model: Separator, segments: Iterator[Segment], sources: tuple[str, ...], batch_size: int
) -> Iterator[tuple[Segment, Stems]]:
    """Run the network over batches of one size, so that one program serves every track."""
    while batch := list(itertools.islice(segments, batch_size)):
        absent = batch_size - len(batch)
        lengths = np.array([segment.length for segment in batch] + [0] * absent, np.int32)
        try:
            mixture = np.stack([segment.audio for segment in batch] + [np.zeros_like(batch[0].audio)] * absent)
            estimates = np.asarray(model(jnp.asarray(mixture), sources, jnp.asarray(lengths)))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            window = batch[0].audio.shape[-1] / model.sample_rate
            raise InputError(
                f"The memory does not hold {batch_size} windows of {window:.1f} s at once; "
                "choose a smaller batch size, segment or context"
            ) from error
        yield from zip(batch, estimates, strict=False)


def _averaged(estimates: Iterator[tuple[Segment, Stems]], shifts: int) -> Iterator[tuple[Segment, Stems]]:
    """Average the kept parts of each segment's `shifts` windows."""
    if shifts == 1:
        yield from estimates
        return
    while group := list(itertools.islice(estimates, shifts)):
        kept = [estimate[..., segment.offset :][..., : segment.kept] for segment, estimate in group]
        yield replace(group[0][0], offset=0), np.mean(kept, axis=0)
