"""Keyboards, guitars, strings and winds: chords, arpeggios and a melody that answers the singer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxmss.data.synth.effects import Stereo, band, pan, reverberate, rms, room
from jaxmss.data.synth.melody import phrases
from jaxmss.data.synth.score import Note, Score
from jaxmss.data.synth.tones import Timbre, play

_HARMONICS = np.arange(1, 81)

# one bar of sixteenths of chords: x struck, . held
_RHYTHMS = (
    "x...x...x...x...",
    "x.....x.....x...",
    "..x...x...x...x.",
    "x..x..x.x..x..x.",
    "x.x.x.x.x.x.x.x.",
    "x.......x.x.....",
)


def harmony(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Play everything that has a pitch and is neither bass nor voice: one instrument for each of two to four parts."""
    parts: list[Callable[..., Stereo]] = [_pad, _comping, _arpeggio, _lead]
    count = int(rng.choice([2, 3, 4], p=[0.3, 0.4, 0.3]))
    chosen = rng.choice(len(parts), count, replace=False)
    if not {0, 1} & set(chosen.tolist()):  # somebody has to play chords
        chosen[0] = rng.integers(2)
    out = np.zeros((2, samples))
    for part in sorted(set(chosen.tolist())):
        sound = parts[part](rng, score, samples)
        out += sound / rms(sound) * 10 ** (rng.uniform(-6, 0) / 20)
    return reverberate(out, room(rng, rng.uniform(0.6, 2.0), 6000.0), rng.uniform(0.1, 0.4))


def _pad(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Held chords of a string section or an organ, wide."""
    lowest = int(rng.integers(50, 62))
    notes = [
        Note(score.time(bar, 0), score.steps * score.step, pitch, rng.uniform(0.7, 1.0))
        for bar in range(len(score.bars))
        for pitch in score.chord(bar, lowest)
    ]
    timbre = _organ(rng) if rng.random() < 0.35 else _strings(rng)
    detune = rng.uniform(0.03, 0.12)
    pair = np.stack([play(rng, notes, timbre, samples, sign * detune) for sign in (-1, 1)])
    width = rng.uniform(0.3, 1.0)  # of the two players between one place and the far left and right
    return band(pair + (1 - width) * pair[::-1], "low", rng.uniform(2500, 9000))


def _comping(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Chords in rhythm, on a keyboard or guitar."""
    lowest = int(rng.integers(48, 60))
    rhythm = str(rng.choice(_RHYTHMS))
    strum = rng.choice([0.0, 0.012])  # seconds between the strings
    held = rng.uniform(0.4, 1.0)
    notes = []
    for bar in range(len(score.bars)):
        steps = [step for step, sign in enumerate(rhythm[: score.steps]) if sign == "x"]
        for step, until in zip(steps, [*steps[1:], score.steps], strict=True):
            start, length = score.time(bar, step), held * (until - step) * score.step
            level = rng.uniform(0.7, 1.0)
            for string, pitch in enumerate(score.chord(bar, lowest)):
                notes.append(Note(start + string * strum, length, pitch, level))
    sound = play(rng, notes, _struck(rng), samples)
    return pan(sound, rng.uniform(-0.7, 0.7))


def _arpeggio(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Broken chords, plucked."""
    lowest = int(rng.integers(55, 72))
    every = int(rng.choice([1, 2])) if score.tempo < 110 else 2
    order = rng.permutation(6)
    notes = []
    for bar in range(len(score.bars)):
        chord = score.chord(bar, lowest)
        tones = [*chord[:3], *(pitch + 12 for pitch in chord[:3])]
        for count, step in enumerate(range(0, score.steps, every)):
            pitch = tones[order[count % len(order)]]
            notes.append(Note(score.time(bar, step), every * score.step, pitch, rng.uniform(0.6, 1.0)))
    return pan(play(rng, notes, _struck(rng), samples), rng.uniform(-0.7, 0.7))


def _lead(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """A second melody, on a wind instrument, a violin or a synthesizer, in the singer's range or above it."""
    melody = phrases(rng, score, rng.uniform(60, 79), rest=rng.uniform(0.3, 1.5), pace=rng.uniform(1.0, 2.0))
    notes = [note for phrase in melody for note in phrase]
    return pan(play(rng, notes, _wind(rng), samples), rng.uniform(-0.5, 0.5))


def _coloured(rng: np.random.Generator, amplitudes: np.ndarray) -> np.ndarray:
    """Give every harmonic a level of its own, within some dB: no two instruments are alike."""
    return amplitudes * 10 ** (rng.normal(0, 3.0, len(amplitudes)) / 20)


def _strings(rng: np.random.Generator) -> Timbre:
    dull = _coloured(rng, _HARMONICS ** -rng.uniform(1.0, 1.5))
    return Timbre(0.2 * dull, dull, rng.uniform(0.05, 0.3), 0.5, np.inf, rng.uniform(0.1, 0.3), rng.choice([0, 0.15]))


def _organ(rng: np.random.Generator) -> Timbre:
    drawbars = np.zeros(len(_HARMONICS))
    drawbars[[0, 1, 2, 3, 5, 7]] = rng.uniform(0.1, 1.0, 6)
    return Timbre(0.3 * drawbars, drawbars, 0.01, 0.05, np.inf, 0.05, rng.choice([0, 0.2]), 6.5)


def _struck(rng: np.random.Generator) -> Timbre:
    """A piano, electric piano, guitar or harp: plucked at some place, the overtones dying first."""
    comb = np.abs(np.sin(np.pi * _HARMONICS * rng.uniform(0.07, 0.45)))
    bright = _coloured(rng, comb * _HARMONICS ** -rng.uniform(0.7, 1.2))
    dull = _coloured(rng, comb * _HARMONICS ** -rng.uniform(1.6, 2.6))
    change, fade = rng.uniform(0.05, 0.4), rng.uniform(0.4, 1.5)
    return Timbre(bright, dull, rng.uniform(0.002, 0.008), change, fade, rng.uniform(0.04, 0.15))


def _wind(rng: np.random.Generator) -> Timbre:
    """A clarinet, flute, saxophone, violin or square-wave lead: some with a vibrato much like a singer's."""
    slope = rng.uniform(0.9, 2.2)
    odd = np.where(_HARMONICS % 2 == 1, 1.0, rng.choice([0.1, 0.5, 1.0]))
    dull = _coloured(rng, odd * _HARMONICS**-slope)
    vibrato, rate = rng.choice([0, 0.15, 0.3]), rng.uniform(4.5, 6.0)
    return Timbre(0.3 * dull, dull, rng.uniform(0.02, 0.06), 0.1, np.inf, 0.05, vibrato, rate)
