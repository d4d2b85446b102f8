"""Spectrograms as PNG images: time to the right, frequency upwards in octaves, level as colour."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from jaxmss.stft import stft
from jaxmss.typing import Float

LOWEST, HIGHEST = 40.0, 16000.0  # Hz
QUIETEST, LOUDEST = -90.0, -15.0  # dB, where a full-scale sine has 0 dB
# dark to bright, from blue over red to yellow: the order that the eye reads without a legend
COLOURS = ("#07061c", "#2b1157", "#6b1f79", "#b03570", "#e75f52", "#fb9e4f", "#fde9a9")

_N_FFT, _HOP, _ROWS = 4096, 256, 256


def height(frequency: float) -> float:
    """Return where a frequency in Hz stands in the image: 0 at its lower edge, 1 at its upper edge."""
    return float(np.log(frequency / LOWEST) / np.log(HIGHEST / LOWEST))


def spectrogram_png(waveform: Float[np.ndarray, "c t"], sample_rate: int) -> bytes:
    """Return the image of the mean of the channels, 256 rows high, with a column for every 256 samples."""
    levels = log_spectrogram(waveform, sample_rate)
    shades = np.clip((levels - QUIETEST) / (LOUDEST - QUIETEST), 0, 1)
    return encode_png(np.round(255 * shades[::-1]).astype(np.uint8), palette())


def log_spectrogram(waveform: Float[np.ndarray, "c t"], sample_rate: int) -> Float[np.ndarray, "rows n"]:
    """Return the level in dB at frequencies from `LOWEST` to `HIGHEST`, equally spaced in octaves."""
    spectrum = np.asarray(stft(waveform.mean(0), _N_FFT, _HOP, pad_mode="constant"))
    power = np.square(np.abs(spectrum) / (_N_FFT / 4))  # a sine of amplitude 1 has a peak of a quarter of the window
    rows = LOWEST * (HIGHEST / LOWEST) ** np.linspace(0, 1, _ROWS) * _N_FFT / sample_rate  # in bins
    # triangles as wide as the rows' distance, but at least a bin: they interpolate low bins and average high ones
    widths = np.maximum(1, np.gradient(rows))
    weights = np.maximum(0, 1 - np.abs(np.arange(power.shape[1]) - rows[:, None]) / widths[:, None])
    totals = weights.sum(1, keepdims=True)
    totals[totals == 0] = 1  # rows above half the sample rate: nothing is there
    return 10 * np.log10(weights / totals @ power.T + 1e-20)


def palette() -> np.ndarray:
    """Return 256 colours (red, green, blue) through `COLOURS`, whose lightness rises evenly."""
    points = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])
    # sRGB (IEC 61966-2-1) to luminance, and luminance to lightness (CIE 1976)
    linear = np.where(points <= 10, points / 255 / 12.92, ((points / 255 + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.linspace(lightness[0], lightness[-1], 256)
    return np.stack([np.interp(steps, lightness, channel) for channel in points.T], axis=1).round().astype(np.uint8)


def encode_png(image: np.ndarray, colours: np.ndarray) -> bytes:
    """Return a PNG file of palette indices (rows, columns) and up to 256 colours (red, green, blue), all uint8.

    Source: https://www.w3.org/TR/png-3/
    """
    rows, columns = image.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits of palette index, nothing special
    unfiltered = np.pad(image, [(0, 0), (1, 0)])  # each row begins with its filter: 0, none
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(unfiltered.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
