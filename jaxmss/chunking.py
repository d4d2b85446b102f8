"""Cut a track of any length into segments with context, and join what the network makes of them.

The scheme of CWS-PResUNet: consecutive segments, each seen with some context on either side and kept without it. No
context exists before the first segment; after the last one the track ends. Both directions are streams, so that a
track of hours needs the memory of a few segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jaxmss.config import check
from jaxmss.typing import Float

Block = Float[np.ndarray, "c _"]
Stems = Float[np.ndarray, "j c _"]


@dataclass(frozen=True)
class Chunking:
    """How a track is cut, in samples.

    Attributes:
      segment: samples kept of each segment.
      context: samples that the network sees before and after each segment.
      overlap: samples that neighbouring segments share, cross-faded linearly; at most half a segment.
    """

    segment: int
    context: int
    overlap: int = 0

    def __post_init__(self) -> None:
        check(self.segment >= 1, "segment", self.segment, "it must be at least one sample")
        check(self.context >= 0, "context", self.context, "it must not be negative")
        check(0 <= self.overlap <= self.segment // 2, "overlap", self.overlap, "it must be 0 to half the segment")

    @property
    def window(self) -> int:
        """Samples of a segment with all its context: the one size that the network is given."""
        return self.segment + 2 * self.context

    @property
    def step(self) -> int:
        """Samples from the start of a segment to that of the next."""
        return self.segment - self.overlap


@dataclass(frozen=True)
class Segment:
    """One input of the network, and what to keep of its output.

    Attributes:
      audio: window of the track (c, window), zeros after `length`.
      length: samples of the window that exist for the network.
      offset: first sample to keep.
      kept: number of samples to keep.
      last: whether the track ends with it.
    """

    audio: Block
    length: int
    offset: int
    kept: int
    last: bool


def cut(blocks: Iterable[Block], chunking: Chunking, shifts: Iterable[int] = (0,)) -> Iterator[Segment]:
    """Cut a stream of `blocks` into segments; an empty stream gives none.

    A track that fits one segment is followed by zeros up to one context. Each of `shifts`, at most one context, gives
    one window per segment that begins that much earlier (on zeros, where the track has not begun) and ends no later.
    """
    segment, context = chunking.segment, chunking.context
    source = iter(blocks)
    held: Block | None = None  # samples from `origin` on
    origin = start = 0
    ended = False
    while True:
        while not ended and (held is None or origin + held.shape[1] <= start + segment + context):
            block = next(source, None)
            if block is None:
                ended = True
            else:
                held = block if held is None else np.concatenate([held, block], axis=1)
        if held is None or origin + held.shape[1] == 0:
            return
        available = origin + held.shape[1]
        stop = min(start + segment, available)
        last = ended and stop == available
        for shift in shifts:
            begin = max(start - context, 0) - shift
            end = min(stop + context, available, begin + chunking.window)
            window = np.zeros((held.shape[0], chunking.window), np.float32)
            known = max(begin, origin)
            window[:, known - begin : end - begin] = held[:, known - origin : end - origin]
            length = segment + context if start == 0 and last else end - begin
            yield Segment(window, length, start - begin, stop - start, last)
        if last:
            return
        start += chunking.step
        forget = max(start - 2 * context - origin, 0)
        held, origin = held[:, forget:], origin + forget


def join(estimates: Iterable[tuple[Segment, Stems]], overlap: int) -> Iterator[Stems]:
    """Join the estimates of consecutive segments into a stream of blocks that is as long as the track."""
    fade_in = ((np.arange(overlap) + 0.5) / max(overlap, 1)).astype(np.float32)
    tail: np.ndarray | None = None
    for segment, estimate in estimates:
        kept = estimate[..., segment.offset : segment.offset + segment.kept]
        if overlap and tail is not None:
            # the last segment may be shorter than the overlap
            shared = min(overlap, kept.shape[-1])
            faded = tail[..., :shared] * (1 - fade_in[:shared]) + kept[..., :shared] * fade_in[:shared]
            kept = np.concatenate([faded, kept[..., shared:]], axis=-1)
        if segment.last or not overlap:
            yield kept
        else:
            yield kept[..., :-overlap]
            tail = kept[..., -overlap:]
