"""Melodies: phrases over a score's chords, for the singer and for the instruments that answer."""

from __future__ import annotations

import numpy as np

from jaxmss.data.synth.score import Note, Score

_LENGTHS = np.array([1, 2, 3, 4, 6, 8])  # of notes, in sixteenths
_SHORTEST, _TYPICAL = 0.13, 0.36  # seconds of a syllable
_STEPS = np.array([-4, -3, -2, -1, 0, 1, 2, 3, 4])  # from note to note, in degrees of the scale
_STEP_WEIGHTS = np.array([1, 2, 5, 9, 4, 9, 5, 2, 1]) / 38


def phrases(rng: np.random.Generator, score: Score, centre: float, rest: float, pace: float = 1.0) -> list[list[Note]]:
    """Return a melody of two-bar phrases around a pitch, with about `rest` seconds of silence after each.

    A larger `pace` makes longer notes. Strong beats and last notes fall on tones of the chord.
    """
    found, degree = [], _nearest_degree(score, centre)
    middle = degree
    for bar in range(0, len(score.bars), 2):
        until = 2 * score.steps - max(1, round(rest * rng.uniform(0.6, 1.4) / score.step))
        step = int(rng.choice([0, 0, 0, 1, 2]))
        phrase: list[Note] = []
        while step < until:
            length = min(_length(rng, score, pace), until - step)
            if until - step - length < 2:  # the last note of a phrase is held
                length = until - step
            leap = int(rng.choice(_STEPS, p=_STEP_WEIGHTS))
            degree += leap - round(0.3 * (degree - middle))
            here = min(bar + step // score.steps, len(score.bars) - 1)
            if step % 8 == 0 or step + length == until:
                degree = _chord_degree(score, here, degree)
            start = score.time(bar, step)
            end = score.time(bar, step + length)
            level = rng.uniform(0.75, 1.0) * (1.0 if step % 4 == 0 else 0.88) * (0.7 + 0.3 * score.bars[here].energy)
            phrase.append(Note(start, end - start, score.pitch(degree), level))
            step += length
        found.append(phrase)
    return found


def _length(rng: np.random.Generator, score: Score, pace: float) -> int:
    """Draw a note's length in sixteenths, whatever the tempo most often that of a syllable."""
    seconds = _LENGTHS * score.step
    weights = np.exp(-((np.log(seconds / (_TYPICAL * pace)) / 0.5) ** 2)) * (seconds > _SHORTEST)
    return int(rng.choice(_LENGTHS, p=weights / weights.sum()))


def _nearest_degree(score: Score, pitch: float) -> int:
    return min(range(-35, 36), key=lambda degree: abs(score.pitch(degree) - pitch))


def _chord_degree(score: Score, bar: int, degree: int) -> int:
    """Return the tone of the bar's chord that is nearest to a degree."""
    root = score.bars[bar].root
    return min(range(degree - 3, degree + 4), key=lambda d: ((d - root) % 7 not in (0, 2, 4), abs(d - degree)))
