"""Folders of recordings: noise of 16 bits, of which any piece tells where it was cut from."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

RATE = 1000
STEMS = ("vocals", "bass", "drums", "other")


def noise(name: str, samples: int, channels: int = 2) -> np.ndarray:
    """Integers (t, c) that depend on the name alone, as loud as four of them can be added up."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.integers(-8192, 8192, (samples, channels)).astype(np.int16)


def write_songs(
    split: Path, names: Iterable[str], stems: Iterable[str] = STEMS, samples: int = 500, channels: int = 2
) -> None:
    """Write a folder of 16-bit WAV files for each song; the file of song A's vocals holds `noise("A/vocals", ...)`."""
    for name in names:
        (split / name).mkdir(parents=True)
        for stem in stems:
            soundfile.write(
                split / name / f"{stem}.wav", noise(f"{name}/{stem}", samples, channels), RATE, subtype="PCM_16"
            )
