"""What is played: tempo, metre, key, chords and the course of a song. Times are in seconds, pitches in MIDI numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RATE = 44100  # Hz, of everything here

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
STEPS_PER_BEAT = 4  # sixteenth notes
BARS_PER_SECTION = 4

# roots of four bars as degrees of the scale, the tonic being 0
_PROGRESSIONS = (
    (0, 4, 5, 3),
    (5, 3, 0, 4),
    (0, 5, 3, 4),
    (0, 3, 4, 3),
    (0, 2, 3, 4),
    (0, 6, 3, 0),
    (0, 5, 1, 4),
    (3, 4, 2, 5),
)
_GOLDEN = (math.sqrt(5) - 1) / 2
_SLOWEST, _FASTEST = 68.0, 152.0  # beats per minute


@dataclass(frozen=True)
class Note:
    """One note of an instrument or singer.

    Attributes:
      start: in seconds.
      length: in seconds.
      pitch: MIDI number; 69 is 440 Hz.
      level: loudness, 0 to 1.
    """

    start: float
    length: float
    pitch: int
    level: float


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
      root: of its chord, as a degree of the scale.
      seventh: whether the chord has four tones.
      energy: how full the arrangement is, 0 to 1.
      first: whether it begins a section.
      last: whether it ends a section.
    """

    root: int
    seventh: bool
    energy: float
    first: bool
    last: bool


@dataclass(frozen=True)
class Score:
    """A song on paper.

    Attributes:
      tempo: beats per minute.
      beats: in a bar.
      key: MIDI number of the tonic in the octave of middle C, 60 to 71.
      scale: name in `SCALES`.
      swing: how much later every other sixteenth note comes, as a share of a sixteenth.
      bars: of the song, the last of which may be cut.
    """

    tempo: float
    beats: int
    key: int
    scale: str
    swing: float
    bars: tuple[Bar, ...]

    @property
    def step(self) -> float:
        """Seconds of a sixteenth note."""
        return 60 / self.tempo / STEPS_PER_BEAT

    @property
    def steps(self) -> int:
        """Sixteenth notes in a bar."""
        return self.beats * STEPS_PER_BEAT

    def time(self, bar: int, step: int) -> float:
        """Return when a sixteenth note of a bar comes, in seconds."""
        late = self.swing if step % 2 == 1 else 0.0
        return (bar * self.steps + step + late) * self.step

    def pitch(self, degree: int) -> int:
        """Return the pitch of a degree of the scale, 0 being the tonic `key` and 7 the one above it."""
        return self.key + SCALES[self.scale][degree % 7] + 12 * (degree // 7)

    def chord(self, bar: int, lowest: int) -> list[int]:
        """Return the pitches of a bar's chord in close position, none below `lowest`, from low to high."""
        root = self.bars[bar].root
        degrees = (root, root + 2, root + 4, root + 6)[: 4 if self.bars[bar].seventh else 3]
        return sorted(lowest + (self.pitch(degree) - lowest) % 12 for degree in degrees)


def spread(number: int, offset: float, step: float = _GOLDEN) -> float:
    """Return the term `number` of a sequence in [0, 1) whose terms keep apart: multiples of an irrational, modulo 1."""
    return (offset + number * step) % 1.0


def compose(rng: np.random.Generator, number: int, offset: float, seconds: float) -> Score:
    """Write a song of at least so many seconds. Songs of one `offset` and different numbers differ in tempo and key."""
    tempo = _SLOWEST * (_FASTEST / _SLOWEST) ** spread(number, offset)
    beats = 3 if rng.random() < 0.15 else 4
    first = int(offset * 12)
    verse, chorus = rng.choice(len(_PROGRESSIONS), 2, replace=False)
    sevenths = rng.choice([0.0, 0.25, 0.7])
    calm, full = rng.uniform(0.25, 0.6), rng.uniform(0.7, 1.0)
    bars = []
    for bar in range(math.ceil(seconds * tempo / 60 / beats)):
        section, place = divmod(bar, BARS_PER_SECTION)
        in_chorus = section % 2 == 1
        root = _PROGRESSIONS[chorus if in_chorus else verse][place]
        edges = {"first": place == 0, "last": place == BARS_PER_SECTION - 1}
        bars.append(Bar(root, bool(rng.random() < sevenths), float(full if in_chorus else calm), **edges))
    scale = str(rng.choice(list(SCALES), p=[0.4, 0.35, 0.15, 0.1]))
    swing = float(rng.choice([0.0, 0.0, 0.2, 0.33]))
    return Score(tempo, beats, 60 + (first + 7 * number) % 12, scale, swing, tuple(bars))
