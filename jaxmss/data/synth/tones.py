"""Tones of pitched instruments: two wavetables, one bright and one dull, that change over as a note dies down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from jaxmss.data.synth.effects import Mono, add
from jaxmss.data.synth.score import RATE, Note

Pitch = TypeVar("Pitch", float, np.ndarray)

_HIGHEST = 18000.0  # Hz of a harmonic
_TABLE = 4096  # samples of a period, enough for 200 harmonics between which a straight line will do


@dataclass(frozen=True)
class Timbre:
    """The sound of an instrument.

    Attributes:
      bright: amplitudes of the harmonics when a note begins.
      dull: amplitudes of those that last.
      attack: seconds in which a note rises.
      change: seconds in which the bright harmonics fall to a third.
      fade: seconds in which all falls to a third while a note is held; infinite for winds, strings and organs.
      release: seconds in which a note that is let go falls to a third.
      vibrato: swing of the pitch, in semitones.
      vibrato_rate: in Hz.
    """

    bright: Float[np.ndarray, " k"]
    dull: Float[np.ndarray, " k"]
    attack: float = 0.005
    change: float = 0.2
    fade: float = np.inf
    release: float = 0.06
    vibrato: float = 0.0
    vibrato_rate: float = 5.5


def hertz(pitch: Pitch) -> Pitch:
    """Return the frequency of a MIDI number in equal temperament, 440 Hz for 69."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def play(rng: np.random.Generator, notes: Iterable[Note], timbre: Timbre, samples: int, detune: float = 0.0) -> Mono:
    """Play notes into `samples` samples, all `detune` semitones off."""
    out = np.zeros(samples)
    for note in notes:
        count = int((note.length + 4 * timbre.release) * RATE)
        time = np.arange(count) / RATE
        frequency = hertz(note.pitch + detune)
        phase = frequency * time + rng.random()
        if timbre.vibrato:
            rate = timbre.vibrato_rate * rng.uniform(0.9, 1.1)
            # the integral of a sine that sets in after the attack
            swing = frequency * (2 ** (timbre.vibrato / 12) - 1) / (2 * np.pi * rate)
            phase += swing * np.minimum(time / 0.3, 1) * np.cos(2 * np.pi * rate * time)
        harmonics = max(1, min(len(timbre.bright), int(_HIGHEST / frequency)))
        position = (phase % 1.0) * _TABLE
        index = position.astype(np.int64)
        between = position - index
        tone = np.exp(-time / timbre.change) * _read(_table(timbre.bright[:harmonics]), index, between)
        tone += _read(_table(timbre.dull[:harmonics]), index, between)
        tone *= note.level * _envelope(time, note.length, timbre)
        add(out, tone, round(note.start * RATE))
    return out


def _table(amplitudes: Float[np.ndarray, " k"]) -> Float[np.ndarray, " p"]:
    """Return one period of sines of these amplitudes, and its first sample once more."""
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * _TABLE * amplitudes
    period = np.fft.irfft(spectrum)
    return np.append(period, period[0])


def _read(table: Float[np.ndarray, " p"], index: np.ndarray, between: Mono) -> Mono:
    low = table[index]
    return low + between * (table[index + 1] - low)


def _envelope(time: Mono, length: float, timbre: Timbre) -> Mono:
    rise = np.minimum(time / timbre.attack, 1.0)
    fall = np.exp(-np.maximum(time - length, 0) / timbre.release)
    return rise * fall * np.exp(-time / timbre.fade)
