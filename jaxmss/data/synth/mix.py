"""The mixing desk: from a song's number to its stems, in 16 bits, and to their sum."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16

from jaxmss.data.splits import SPLITS
from jaxmss.data.synth.bass import bass
from jaxmss.data.synth.drums import drums
from jaxmss.data.synth.effects import rms
from jaxmss.data.synth.harmony import harmony
from jaxmss.data.synth.score import RATE, Score, compose
from jaxmss.data.synth.voice import vocals
from jaxmss.data.tracks import MIXTURE

_PEAK = 10 ** (-1 / 20)  # of the mixture: 1 dB below full scale
_QUIETEST, _LOUDEST = -7.5, -3.5  # dB of the vocals against all the rest, in the middle one of the song's seconds


def score_of(seed: int, split: str, index: int, seconds: float) -> Score:
    """Return what is played in a song."""
    number, offset, rngs = _draws(seed, split, index)
    return compose(rngs[0], number, offset, seconds)


def render(seed: int, split: str, index: int, seconds: float) -> dict[str, Int16[np.ndarray, "t 2"]]:
    """Return a song's stems and their sum, the mixture: 44.1 kHz, a function of the arguments alone.

    Nothing is clipped; the mixture's peak lies 1 dB below full scale.
    """
    number, offset, rngs = _draws(seed, split, index)
    score = compose(rngs[0], number, offset, seconds)
    samples = round(seconds * RATE)
    levels = rngs[1]
    stems = {
        "drums": drums(rngs[2], score, samples),
        "bass": bass(rngs[3], score, samples),
        "other": harmony(rngs[4], score, samples),
    }
    for name, decibels in (("drums", (-3, 1)), ("bass", (-4, 0)), ("other", (-1, 4))):
        stems[name] *= 10 ** (levels.uniform(*decibels) / 20) / rms(stems[name])
    voice = vocals(rngs[5], score, number, offset, samples)
    accompaniment = sum(stems.values(), np.zeros_like(voice))
    target = levels.uniform(_QUIETEST, _LOUDEST)
    stems["vocals"] = voice * 10 ** ((target - _median_ratio(voice, accompaniment)) / 20)
    scale = 32767 * _PEAK / np.abs(accompaniment + stems["vocals"]).max()
    rounded = {name: np.rint(scale * stem.T).astype(np.int16) for name, stem in stems.items()}
    return {MIXTURE: np.add.reduce(list(rounded.values()), dtype=np.int16), **rounded}


def _draws(seed: int, split: str, index: int) -> tuple[int, float, list[np.random.Generator]]:
    """Return the song's number, which no other has, what all songs of a seed share, and generators for its parts."""
    which = SPLITS.index(split)
    offset = float(np.random.default_rng(seed).random())
    return len(SPLITS) * index + which, offset, np.random.default_rng([seed, which, index]).spawn(6)


def _median_ratio(voice: np.ndarray, accompaniment: np.ndarray) -> float:
    """Return the level of the voice against the accompaniment in dB: the median over the song's seconds."""
    whole = voice.shape[1] // RATE
    energies = [
        np.square(sound[:, : whole * RATE]).reshape(2, whole, RATE).sum(axis=(0, 2)) for sound in (voice, accompaniment)
    ]
    return float(np.median(10 * np.log10((energies[0] + 1e-9) / (energies[1] + 1e-9))))
