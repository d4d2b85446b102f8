"""Cut a track of any length into segments with what lies around them, and join what networks make of them.

There are two schemes. That of CWS-PResUNet: each segment is seen with some context on either side and kept without it;
no context exists before the first segment, and after the last one the track ends. And that of Demucs: each segment lies
in the middle of a window that is as long as suits the network, full of the track on both sides, with zeros only where
there is no track. Neighbours may be cross-faded in both. Both directions are streams, so that a track of hours needs
the memory of a few segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmss.config import Windows, check
from jaxmss.typing import Float

Block = Float[np.ndarray, "c _"]
Stems = Float[np.ndarray, "j c _"]


@dataclass(frozen=True)
class Chunking:
    """How a track is cut, in samples.

    Attributes:
      segment: samples kept of each segment.
      context: samples on either side of it that the network is to see with it.
      overlap: samples that neighbouring segments share, cross-faded linearly; at most half a segment.
      windows: the lengths that windows may have where each segment lies in the middle of one (Demucs): that of a
        segment that the end of the track cuts short is shorter, if a shorter one holds it; None where windows begin
        and end with the track (CWS-PResUNet).
    """

    segment: int
    context: int = 0
    overlap: int = 0
    windows: Windows | None = None

    def __post_init__(self) -> None:
        check(self.segment >= 1, "segment", self.segment, "it must be at least one sample")
        check(self.context >= 0, "context", self.context, "it must not be negative")
        check(0 <= self.overlap <= self.segment // 2, "overlap", self.overlap, "it must be 0 to half the segment")

    @property
    def window(self) -> int:
        """Samples that the network is given at a time: a segment with all that it sees around it."""
        return self.holding(self.segment)

    def holding(self, kept: int) -> int:
        """Return the length of the window of a segment of `kept` samples that has all its context."""
        length = kept + 2 * self.context
        return self.windows.holding(length) if self.windows else length

    @property
    def before(self) -> int:
        """Samples of the window before a whole segment."""
        return (self.window - self.segment) // 2

    @property
    def after(self) -> int:
        """Samples of the window after a whole segment."""
        return self.window - self.segment - self.before

    @property
    def step(self) -> int:
        """Samples from the start of a segment to that of the next."""
        return self.segment - self.overlap


@dataclass(frozen=True)
class Segment:
    """One input of the network, and what to keep of its output.

    Attributes:
      audio: window of the track (*c, window), zeros where there is none.
      length: samples of the window that exist for the network.
      inside: first sample of the window that is of the track, and the one after the last.
      offset: first sample to keep.
      kept: number of samples to keep.
      start: place of the first one in the track; negative where the segments begin before it.
      first: whether none precedes it.
      last: whether none follows it.
      settled: samples from the start of the track that no later segment has a share in.
    """

    audio: Float[np.ndarray, "*c _"]
    length: int
    inside: tuple[int, int]
    offset: int
    kept: int
    start: int
    first: bool
    last: bool
    settled: int


def cut(
    blocks: Iterable[Float[np.ndarray, "*c _"]], chunking: Chunking, delays: Sequence[int] = (0,)
) -> Iterator[Segment]:
    """Cut a stream of `blocks` (*c, t) of any size into segments; an empty stream gives none.

    Each of `delays` cuts the track anew, as if so many zeros preceded it; the segments of all of them come in turns.
    A track that fits one segment of the uncentred scheme is followed by zeros up to one context.
    """
    segment, window = chunking.segment, chunking.window
    past = (window - 1) // 2 if chunking.windows else chunking.before  # the most that lies before any segment
    delays = sorted(delays, reverse=True)
    source = iter(blocks)
    held: Float[np.ndarray, "*c _"] | None = None  # samples from `origin` on
    origin = place = 0
    ended = False
    while True:
        while not ended and (held is None or origin + held.shape[-1] <= place - delays[-1] + segment + chunking.after):
            block = next(source, None)
            if block is None:
                ended = True
            else:
                held = block if held is None else np.concatenate([held, block], axis=-1)
        available = 0 if held is None else origin + held.shape[-1]
        if held is None or available <= max(place - delays[0], 0):
            return
        for delay, following in zip(delays, [*delays[1:], None], strict=True):
            start = place - delay
            if start >= available:
                break
            stop = min(start + segment, available)
            if chunking.windows:
                length = chunking.holding(stop - start)
                begin = start - (length - (stop - start)) // 2
                end = begin + length
            else:
                begin, end = max(start - chunking.before, -delay), min(stop + chunking.after, available)
                alone = place == 0 and stop == available
                length = segment + chunking.after if alone else end - begin
            known = max(begin, 0)
            unknown = max(min(end, available), known)
            audio = np.zeros((*held.shape[:-1], window), np.float32)
            audio[..., known - begin : unknown - begin] = held[..., known - origin : unknown - origin]
            settled = place + chunking.step - delays[0]
            yield Segment(
                audio,
                length,
                (known - begin, unknown - begin),
                start - begin,
                stop - start,
                start,
                place == 0,
                ended and start + chunking.step >= available,
                settled if following is None else min(settled, place - following),
            )
        place += chunking.step
        forget = max(place - delays[0] - past - origin, 0)
        held, origin = held[..., forget:], origin + forget


def join(estimates: Iterable[tuple[Segment, Stems]], chunking: Chunking, delays: int = 1) -> Iterator[Stems]:
    """Join the estimates of a track's segments into a stream of blocks that is as long as the track.

    Where two segments overlap, the share of the later one grows from ``1 / (overlap + 1)`` by equal steps: those are
    the triangular weights of Demucs, normalised. What `delays` cuts of the track give is averaged.
    """
    overlap, step = chunking.overlap, chunking.step
    fade_in = ((np.arange(overlap) + 1) / (overlap + 1)).astype(np.float32)
    sums: np.ndarray | None = None  # from sample `done` of the track on
    done = 0
    for segment, estimate in estimates:
        kept = estimate[..., segment.offset : segment.offset + segment.kept]
        if overlap or delays > 1:
            weight = np.full(segment.kept, 1 / delays, np.float32)
            if not segment.first:
                weight[:overlap] *= fade_in[: segment.kept]
            if not segment.last:
                weight[step:] *= 1 - fade_in[: segment.kept - step]
            kept = kept * weight
        kept = kept[..., max(-segment.start, 0) :]
        if sums is None:
            sums = kept[..., :0]
        begin = max(segment.start, 0) - done
        shared = min(sums.shape[-1] - begin, kept.shape[-1])
        added = np.concatenate([sums, kept[..., shared:]], axis=-1) if shared < kept.shape[-1] else sums
        added[..., begin : begin + shared] += kept[..., :shared]
        ready = min(max(segment.settled - done, 0), added.shape[-1])
        if ready:
            yield added[..., :ready]
        sums, done = added[..., ready:], done + ready
    if sums is not None and sums.shape[-1]:
        yield sums
