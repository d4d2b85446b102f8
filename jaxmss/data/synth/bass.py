"""The bass player: a line on the roots of the chords, by finger, by pick or on a synthesizer."""

from __future__ import annotations

import numpy as np

from jaxmss.data.synth.effects import Stereo, band, drive, pan
from jaxmss.data.synth.score import Note, Score
from jaxmss.data.synth.tones import Timbre, play

_LOWEST = 28  # MIDI number of the low E string

# one bar of sixteenths, by what is played: r root, f fifth, o octave, . held or silent
_LINES = (
    "r.......r.......",
    "r.r.r.r.r.r.r.r.",
    "r.....r.f.....r.",
    "r..r..r.r..r..o.",
    "..r...r...r...r.",
    "r...o...r...o...",
)


def bass(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Play a song's bass line."""
    harmonic = np.arange(1, 41)
    warm = rng.uniform(1.2, 2.2)  # exponent: the larger, the fewer overtones
    comb = np.abs(np.sin(np.pi * harmonic * rng.uniform(0.08, 0.3)))  # of the place where a string is plucked
    dull = comb * harmonic**-warm / comb[0]
    if rng.random() < 0.3:  # a square wave
        dull = np.where(harmonic % 2 == 1, harmonic**-warm, 0.0)
    timbre = Timbre(
        bright=rng.uniform(0.2, 0.9) * comb * harmonic**-0.9,
        dull=dull,
        attack=rng.uniform(0.003, 0.015),
        change=rng.uniform(0.04, 0.3),
        fade=rng.choice([0.6, 1.5, np.inf]),
        release=rng.uniform(0.02, 0.06),
    )
    line = play(rng, _line(rng, score), timbre, samples)
    return pan(band(drive(line, rng.uniform(0.5, 2.0)), "low", rng.uniform(1500, 6000)), rng.uniform(-0.05, 0.05))


def _line(rng: np.random.Generator, score: Score) -> list[Note]:
    verse, chorus = rng.choice(_LINES, 2, replace=False)
    held = rng.uniform(0.6, 1.0)  # share of the time to the next note
    notes = []
    for number, bar in enumerate(score.bars):
        line = (chorus if bar.energy > 0.6 else verse)[: score.steps]
        root = _LOWEST + (score.pitch(bar.root) - _LOWEST) % 12
        fifth = root + (score.pitch(bar.root + 4) - root) % 12
        steps = [step for step, sign in enumerate(line) if sign != "."]
        for step, until in zip(steps, [*steps[1:], score.steps], strict=True):
            pitch = {"r": root, "f": fifth, "o": root + 12}[line[step]]
            if until == score.steps and rng.random() < 0.25:  # lead to the next bar by a step of the scale
                pitch = root + (score.pitch(bar.root + int(rng.choice([1, -1]))) - root) % 12
            start, end = score.time(number, step), score.time(number, until)
            notes.append(Note(start, held * (end - start), pitch, rng.uniform(0.8, 1.0)))
    return notes
