"""What a studio does to sound: level, panning, filters, reverberation. Waveforms are float64, (t,) or stereo (2, t)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.signal
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from jaxmss.data.synth.score import RATE

Mono = Float[np.ndarray, " t"]
Stereo = Float[np.ndarray, "2 t"]

HOP = 256  # samples between the frames of a gain that changes over time
_WINDOW = 4 * HOP


def add(out: Float[np.ndarray, "*c t"], sound: Float[np.ndarray, "*c n"], start: int) -> None:
    """Add a sound to `out` in place from sample `start` on; what lies outside is cut off."""
    skip = max(-start, 0)
    count = min(sound.shape[-1], out.shape[-1] - start) - skip
    if count > 0:
        out[..., start + skip : start + skip + count] += sound[..., skip : skip + count]


def pan(sound: Mono, place: float) -> Stereo:
    """Place a sound between the left (-1) and the right (1) at constant power."""
    angle = (place + 1) * np.pi / 4
    return np.stack([np.cos(angle) * sound, np.sin(angle) * sound])


def rms(sound: np.ndarray) -> float:
    """Return the root of the mean square over all samples and channels."""
    return float(np.sqrt(np.mean(np.square(sound))))


def band(sound: np.ndarray, kind: Literal["low", "high", "band"], frequency: float | tuple[float, float]) -> np.ndarray:
    """Pass the low, high or middle frequencies in Hz, with a Butterworth filter of second order an edge."""
    return scipy.signal.sosfilt(scipy.signal.butter(2, frequency, kind, fs=RATE, output="sos"), sound)


def drive(sound: np.ndarray, amount: float) -> np.ndarray:
    """Saturate softly, the peak as it was: it lies at `amount` on a tanh curve."""
    peak = np.max(np.abs(sound)) or 1.0
    return np.tanh(amount * sound / peak) * (peak / np.tanh(amount))


def room(rng: np.random.Generator, seconds: float, brightness: float) -> Float[np.ndarray, "2 r"]:
    """Return the impulse response of a room without the direct sound, of unit energy in each channel.

    `seconds` is the time to fall by 60 dB, `brightness` the cut-off in Hz of what comes back.
    """
    count = int(1.2 * seconds * RATE)
    time = np.arange(count) / RATE
    tail = rng.standard_normal((2, count)) * 10 ** (-3 * time / seconds)
    tail[:, : int(0.008 * RATE)] = 0  # the first wall is some metres away
    tail = band(band(tail, "low", brightness), "high", 180.0)
    return tail / np.sqrt(np.sum(np.square(tail), axis=1, keepdims=True))


def reverberate(sound: Stereo, response: Float[np.ndarray, "2 r"], amount: float) -> Stereo:
    """Add a room's answer to a sound, in `amount` of its level."""
    wet = scipy.signal.oaconvolve(sound, response, axes=1)[:, : sound.shape[1]]
    return sound + amount * wet


def frame_count(samples: int) -> int:
    """Return how many frames, `HOP` samples apart from sample 0 on, a sound has in `shape`."""
    return -(-samples // HOP) + 1


def bins() -> Float[np.ndarray, " f"]:
    """Return the frequencies in Hz of the gains of `shape`."""
    return np.fft.rfftfreq(_WINDOW, 1 / RATE)


def shape(sound: Mono, gain: Float[np.ndarray, "n f"]) -> Mono:
    """Filter a sound by a gain of n frames (`frame_count`) and f frequencies (`bins`), without a shift in phase."""
    frames = len(gain)
    window = np.sqrt(scipy.signal.windows.hann(_WINDOW, sym=False) / 2)  # squares, 4 on top of each other, add up to 1
    before = _WINDOW // 2
    padded = np.pad(sound, (before, (frames - 1) * HOP + _WINDOW - before - len(sound)))
    spectra = np.fft.rfft(sliding_window_view(padded, _WINDOW)[::HOP] * window)
    pieces = (np.fft.irfft(spectra * gain) * window).reshape(frames, 4, HOP)
    out = np.zeros((frames + 3, HOP))
    for quarter in range(4):
        out[quarter : quarter + frames] += pieces[:, quarter]
    return out.reshape(-1)[before : before + len(sound)]
