"""The singer: a glottal source through the formants of a vocal tract, sung in syllables without a language.

The pitch glides from note to note, scoops, drifts and takes a vibrato on held notes. Every note is a syllable: a
consonant, of noise, a closed mouth or both, and a vowel, or two that glide into each other. A breath comes before a
phrase.
Source-filter model: G. Fant, "Acoustic theory of speech production" (1960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from jaxmss.data.synth.effects import HOP, Mono, Stereo, band, bins, drive, frame_count, pan, reverberate, room, shape
from jaxmss.data.synth.melody import phrases
from jaxmss.data.synth.phonemes import CONSONANTS, DIPHTHONGS, NEUTRAL, VOWELS, Consonant
from jaxmss.data.synth.score import RATE, Note, Score, spread
from jaxmss.data.synth.tones import hertz

_BANDWIDTHS = (80.0, 100.0, 140.0)  # Hz
_HIGHEST = 16000.0  # Hz of a harmonic


@dataclass(frozen=True)
class _Singer:
    """A voice and its habits.

    Attributes:
      centre: of the range, a MIDI number.
      tract: formants as multiples of a man's: a shorter vocal tract has higher ones.
      slope: exponent of the harmonics' fall, from pressed (low) to soft (high).
      breath: level of the noise in the voice.
      vibrato: swing of the pitch in semitones.
      rate: of the vibrato in Hz.
      glide: seconds from one pitch to the next.
      ring: width in Hz of the upper formants, narrower in a trained voice.
    """

    centre: float
    tract: float
    slope: float
    breath: float
    vibrato: float
    rate: float
    glide: float
    ring: float


@dataclass
class _Course:
    """What the singer does, at every frame (`effects.HOP` samples).

    Attributes:
      pitch: MIDI number.
      voice: level of the voice.
      formants: the first three, in Hz, of a man.
      noise: gain of the consonants and breaths at every frequency.
    """

    pitch: Float[np.ndarray, " n"]
    voice: Float[np.ndarray, " n"]
    formants: Float[np.ndarray, "3 n"]
    noise: Float[np.ndarray, "n f"]


def vocals(rng: np.random.Generator, score: Score, number: int, offset: float, samples: int) -> Stereo:
    """Sing a song: the melody, on some choruses a second voice or a second take beside it, in a room.

    Singers of different `number` and one `offset` keep apart in range, from bass to soprano.
    """
    high = spread(number, offset, np.sqrt(2))
    singer = _Singer(
        centre=50 + 21 * high,
        tract=0.95 + 0.25 * high + rng.uniform(-0.06, 0.06),
        slope=rng.uniform(0.3, 0.9),
        breath=rng.uniform(0.01, 0.06),
        vibrato=rng.uniform(0.25, 0.8),
        rate=rng.uniform(4.8, 6.6),
        glide=rng.uniform(0.012, 0.035),
        ring=rng.uniform(120, 300),
    )
    melody = phrases(rng, score, singer.centre, rest=rng.uniform(0.35, 0.8))
    out = pan(_sing(rng, melody, singer, samples), rng.uniform(-0.08, 0.08))
    if rng.random() < 0.5:  # the same words once more: a double, or a third above
        third = 4 if rng.random() < 0.5 else 0
        chorus = [[replace(n, pitch=n.pitch + third) for n in phrase] for phrase in melody[1::2]]
        if chorus:
            second = _sing(rng, chorus, replace(singer, breath=2 * singer.breath), samples)
            out += rng.uniform(0.25, 0.5) * pan(second, rng.uniform(-0.6, 0.6))
    out = drive(band(out, "high", 80.0), rng.uniform(0.5, 1.5))
    return reverberate(out, room(rng, rng.uniform(0.5, 1.8), rng.uniform(4000, 9000)), rng.uniform(0.08, 0.3))


def _sing(rng: np.random.Generator, melody: Sequence[Sequence[Note]], singer: _Singer, samples: int) -> Mono:
    """Sing the phrases of a melody, with consonants and vowels drawn at random."""
    course = _course(rng, melody, singer, samples)
    at_frames, at_samples = np.arange(len(course.pitch)) * HOP, np.arange(samples)
    frequency = hertz(np.interp(at_samples, at_frames, course.pitch))
    level = np.interp(at_samples, at_frames, course.voice)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    source = np.zeros(samples)
    for start, stop in _stretches(level > 0):
        source[start:stop] = _glottis(phase[start:stop], frequency[start:stop], singer.slope)
    puffs = singer.breath * (1 + np.cos(phase))  # air flows while the glottis is open
    noise = rng.standard_normal(samples)
    voiced = shape(level * (source + puffs * noise), _tract(course, singer))
    loudness = np.sqrt(np.sum(np.square(voiced)) / np.sum(np.square(level)))
    return voiced / loudness + shape(noise, course.noise)


def _course(rng: np.random.Generator, melody: Sequence[Sequence[Note]], singer: _Singer, samples: int) -> _Course:
    frames = frame_count(samples)
    per_second = RATE / HOP
    time = np.arange(frames) / per_second
    pitch = np.full(frames, melody[0][0].pitch, float)
    shake = np.zeros(frames)
    voice = np.zeros(frames)
    formants = np.empty((3, frames))
    formants[:] = np.array(NEUTRAL)[:, None]
    noise = np.zeros((frames, len(bins())))
    repertoire = list(CONSONANTS)
    for phrase in melody:
        first = phrase[0].start
        breath = np.exp(-(((time - first + 0.25) / 0.07) ** 2)) * singer.breath * rng.uniform(0.3, 1.0)
        around = slice(*np.searchsorted(time, [first - 0.5, first]))
        noise[around] += breath[around, None] * _spectrum(1700 * singer.tract, 1.3)
        for number, note in enumerate(phrase):
            consonant = CONSONANTS[repertoire[rng.integers(len(repertoire))]]
            hurry = min(1.0, 0.5 * note.length / 0.15)  # of quick notes more than half is vowel
            onset = note.start + hurry * consonant.closure
            vowel = onset + hurry * consonant.noise
            end = note.start + note.length - (0.05 if number + 1 == len(phrase) else 0.0)
            span = (time >= note.start) & (time < end)
            pitch[time >= note.start] = note.pitch
            held = note.length > 0.35
            depth = singer.vibrato * (rng.uniform(0.7, 1.2) if held else 0.2)
            shake[span] = depth * np.clip((time[span] - note.start - 0.15) / 0.25, 0, 1)
            if rng.random() < 0.35:  # scoop up to the note
                pitch[span] -= rng.uniform(0.5, 2.0) * np.exp(-(time[span] - note.start) / 0.05)
            voice[span] = note.level * np.where(time[span] < vowel, consonant.murmur, 1.0)
            formants[:, span] = _formants(rng, time[span], vowel, end, consonant)
            burst = np.clip((time - onset) / 0.012 + 0.5, 0, 1) * np.clip((vowel - time) / 0.015 + 0.5, 0, 1)
            some = slice(*np.searchsorted(time, [onset - 0.02, vowel + 0.02]))
            level = note.level * consonant.level * rng.uniform(0.6, 1.2)
            noise[some] += (
                0.35 * level * burst[some, None] * _spectrum(consonant.middle * singer.tract, consonant.width)
            )
    rate = singer.rate * (1 + 0.08 * _wander(rng, frames, 0.5 * per_second))
    shake = gaussian_filter1d(shake, 0.05 * per_second) * np.sin(2 * np.pi * np.cumsum(rate) / per_second)
    drift = 0.12 * _wander(rng, frames, 0.3 * per_second) + 0.04 * _wander(rng, frames, 0.02 * per_second)
    return _Course(
        pitch=gaussian_filter1d(pitch, singer.glide * per_second) + shake + drift,
        voice=np.maximum(gaussian_filter1d(voice, 0.014 * per_second) - 1e-4, 0),
        formants=gaussian_filter1d(formants, 0.025 * per_second, axis=1),
        noise=noise,
    )


def _formants(
    rng: np.random.Generator, time: Mono, vowel: float, end: float, consonant: Consonant
) -> Float[np.ndarray, "3 n"]:
    """Return the aims of the formants over a note: the consonant's until `vowel`, then the vowel's or two vowels'."""
    names = list(VOWELS)
    first = last = names[rng.integers(len(names))]
    if end - vowel > 0.25 and rng.random() < 0.4:
        first, last = DIPHTHONGS[rng.integers(len(DIPHTHONGS))]
    over = np.clip((time - vowel) / max(end - vowel, 1e-3) * 1.6 - 0.5, 0, 1)
    aims = np.outer(VOWELS[first], 1 - over) + np.outer(VOWELS[last], over)
    return np.where(time < vowel, np.array(consonant.formants)[:, None], aims)


def _tract(course: _Course, singer: _Singer) -> Float[np.ndarray, "n f"]:
    """Return the gain of the vocal tract: resonances at the formants, and fixed ones above at even distances."""
    frequencies = bins()
    upper = singer.tract * np.arange(3500.0, 20000.0, 1000.0)
    gain = np.prod(_resonance(frequencies, upper[:, None], singer.ring + 0.06 * upper[:, None]), axis=0)
    out = np.tile(gain, (len(course.pitch), 1))
    formants = singer.tract * course.formants
    formants[0] = np.maximum(formants[0], hertz(course.pitch))  # singers open the mouth for high notes
    for formant, width in zip(formants, _BANDWIDTHS, strict=True):
        out *= _resonance(frequencies, formant[:, None], width)
    return out


def _resonance(frequencies: Float[np.ndarray, " f"], centre: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Return the magnitude of a resonator that leaves the lowest frequencies as they are."""
    return centre**2 / np.hypot(frequencies**2 - centre**2, width * frequencies)


def _spectrum(middle: float, width: float) -> Float[np.ndarray, " f"]:
    """Return the gain of a noise around a frequency, `width` octaves to either side."""
    octaves = np.log2(np.maximum(bins(), 1.0) / middle)
    return np.exp(-((octaves / width) ** 2))


def _glottis(phase: Mono, frequency: Mono, slope: float) -> Mono:
    """Return the sum of harmonics `sin(k phase) / k**slope`, each from the two before it (Chebyshev)."""
    harmonics = max(1, int(_HIGHEST / frequency.max()))
    twice = 2 * np.cos(phase)
    before, now = np.zeros_like(phase), np.sin(phase)
    out = now.copy()
    for k in range(2, harmonics + 1):
        before, now = now, twice * now - before
        out += k**-slope * now
    return out


def _wander(rng: np.random.Generator, frames: int, smoothness: float) -> Float[np.ndarray, " n"]:
    """Return noise of about unit level that changes over so many frames."""
    slow = gaussian_filter1d(rng.standard_normal(frames), smoothness)
    return slow * np.sqrt(2 * np.sqrt(np.pi) * smoothness)


def _stretches(on: np.ndarray) -> list[tuple[int, int]]:
    """Return the first sample, and the one after the last, of every stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
