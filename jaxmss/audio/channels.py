"""Between mono and stereo."""

from __future__ import annotations

import numpy as np


def to_channels(waveform: np.ndarray, channels: int) -> np.ndarray:
    """Give a waveform (..., c, t) `channels` channels: mono is repeated, stereo is averaged to mono.

    Raises:
        ValueError: for any other change, such as stereo to six channels.
    """
    have = waveform.shape[-2]
    if have == channels:
        return waveform
    if have == 1:
        return np.repeat(waveform, channels, axis=-2)
    if channels == 1:
        return waveform.mean(axis=-2, keepdims=True, dtype=waveform.dtype)
    raise ValueError(f"cannot turn {have} channels into {channels}: only mono to many and many to mono are defined")
