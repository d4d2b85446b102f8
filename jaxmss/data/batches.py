"""Batches of training examples: each is a function of the seed and its step.

An example is drawn with random numbers of its own, keyed by the seed and its place in the sequence of all examples. So
it makes no difference how many processes or threads share the work, or at which step a run is resumed. What is read
goes to the device as it is, 16-bit samples with gains beside them; `jaxmss.data.mixing` mixes there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxmss.data.clips import Song
from jaxmss.data.mixing import Batch, slots
from jaxmss.data.songs import stems_of
from jaxmss.errors import InputError
from jaxmss.training.config import SUM, Data, Part

THREADS = "examples"  # what the names of those that read begin with
AHEAD = 2  # whole batches that are read before they are asked for, and more where they are small


@dataclass(frozen=True)
class Chunk:
    """A piece of one or several stems, which are added up.

    Attributes:
      song: that it is cut from.
      stems: of the song.
      start: of the piece, in samples.
      gain: that it is multiplied with; negative for the other polarity.
      swap: whether its channels are swapped.
    """

    song: Song
    stems: tuple[str, ...]
    start: int
    gain: float
    swap: bool


class Examples:
    """Draws examples at random, and reads them.

    `songs` are drawn from as `data` says, in examples of `samples` samples. Raises `InputError` if there are too few
    songs with the stems that are drawn at a time.
    """

    def __init__(self, songs: Sequence[Song], data: Data, samples: int, seed: int):
        self.data, self.samples, self.seed = data, samples, seed
        self.slots = [slots(part) for part in data.parts]
        choices = [(part, tuple(choice.split(SUM))) for part in data.parts for choice in part.choices]
        self.songs: Mapping[tuple[str, ...], list[Song]] = {stems: _with(stems, songs) for _, stems in choices}
        self.complete = _with(stems_of(data.parts), songs)
        if data.remix > 0:
            for part, stems in choices:
                _check_enough(self.songs[stems], stems, part)
        if data.remix < 1:
            _check_enough(self.complete, stems_of(data.parts), max(data.parts, key=lambda part: part.count))

    def draw(self, index: int) -> list[list[Chunk]]:
        """Return the chunks of each part of example `index`."""
        key = np.array([self.seed % 2**64, index], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        drawn = [[self._choice(random, part) for _ in range(part.count)] for part in self.data.parts]
        if random.random() < self.data.remix:
            moments = [self._moments(random, [self.songs[stems] for stems in chunks]) for chunks in drawn]
        else:  # the first chunks of all parts are of one moment, so are the second ones, and so on
            together = self._moments(random, [self.complete] * max(map(len, drawn)))
            moments = [together[: len(chunks)] for chunks in drawn]
        return [
            [self._chunk(random, stems, *moment) for stems, moment in zip(chunks, places, strict=True)]
            for chunks, places in zip(drawn, moments, strict=True)
        ]

    def read(self, index: int, batch: Batch, row: int) -> None:
        """Write example `index` into a row of a batch of zeros. Raises `InputError` if a file cannot be read."""
        first = 0
        for chunks, width in zip(self.draw(index), self.slots, strict=True):
            slot = first
            for chunk in chunks:
                for stem in chunk.stems:
                    batch.pcm[row, slot] = chunk.song.clips[stem].read(chunk.start, self.samples)
                    batch.gain[row, slot], batch.swap[row, slot] = chunk.gain, chunk.swap
                    slot += 1
            first += width

    def _choice(self, random: np.random.Generator, part: Part) -> tuple[str, ...]:
        return tuple(part.choices[int(random.integers(len(part.choices)))].split(SUM))

    def _moments(self, random: np.random.Generator, among: Sequence[Sequence[Song]]) -> list[tuple[Song, int]]:
        """Return a moment of a song for each of the lists, all songs different."""
        moments: list[tuple[Song, int]] = []
        for songs in among:
            song = songs[int(random.integers(len(songs)))]
            while any(song is other for other, _ in moments):
                song = songs[int(random.integers(len(songs)))]
            length = min(clip.samples for clip in song.clips.values())
            moments.append((song, int(random.integers(length - self.samples + 1))))
        return moments

    def _chunk(self, random: np.random.Generator, stems: tuple[str, ...], song: Song, start: int) -> Chunk:
        gain = random.uniform(*self.data.gain)
        sign = -1 if random.random() < self.data.flip_polarity else 1
        return Chunk(song, stems, start, sign * gain, bool(random.random() < self.data.swap_channels))


def batches(
    songs: Sequence[Song],
    data: Data,
    rate: int,
    channels: int,
    seed: int,
    start: int,
    stop: int,
    process: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Return a generator of a process's share of the batches of the steps from `start` to before `stop`.

    The shares of all processes, one after another, are the batch of a single process. Some batches are read ahead, by
    `data.threads` threads, which have ended when the generator is closed. Where a signal's handler raises while it is
    waiting for them, they end when what they read is read.

    Args:
      songs: to draw from; together with `data` and `seed` they determine every batch.
      data: what is drawn, and how.
      rate: of the songs, in Hz.
      channels: of the songs.
      seed: of all draws.
      start: first step.
      stop: step after the last one.
      process: index of this process, and number of processes.

    Raises:
      InputError: at once if the processes cannot share a batch evenly, or there are too few songs; from the generator
        if a file cannot be read.
    """
    place, processes = process
    if data.batch % processes:
        raise InputError(f"batch (={data.batch}) must be divisible by the number of processes (={processes})")
    samples = round(data.seconds * rate)
    return _batches(Examples(songs, data, samples, seed), data, channels, range(start, stop), place, processes)


def _batches(
    examples: Examples, data: Data, channels: int, steps: range, place: int, processes: int
) -> Generator[Batch, None, None]:
    rows = data.batch // processes
    shape = (rows, sum(examples.slots))
    ahead = AHEAD - 1 + math.ceil(data.threads / rows)  # work for all threads
    ready: deque[tuple[Batch, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(data.threads, thread_name_prefix=THREADS)
    wait = False  # where a signal's handler raises: the data that are waited for may never come
    try:
        for step in steps:
            batch = Batch(
                np.zeros((*shape, examples.samples, channels), np.int16),  # memory that costs nothing until written to
                np.zeros(shape, np.float32),
                np.zeros(shape, bool),
            )
            first = step * data.batch + place * rows
            ready.append((batch, [pool.submit(examples.read, first + row, batch, row) for row in range(rows)]))
            if len(ready) > ahead:
                yield _finished(*ready.popleft())
        while ready:
            yield _finished(*ready.popleft())
        wait = True
    except (Exception, GeneratorExit):
        wait = True
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


def _finished(batch: Batch, reading: Sequence[Future[None]]) -> Batch:
    for example in reading:
        example.result()  # raises what reading it raised
    return batch


def _with(stems: Sequence[str], songs: Sequence[Song]) -> list[Song]:
    return [song for song in songs if all(stem in song.clips for stem in stems)]


def _check_enough(songs: Sequence[Song], stems: Sequence[str], part: Part) -> None:
    if len(songs) < part.count:
        raise InputError(
            f"{len(songs)} songs have {SUM.join(stems)}, but part {part.name!r} draws {part.count} at a time; "
            "add songs or lower its count"
        )
