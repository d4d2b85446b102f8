"""The recording that the demonstration separates."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from jaxmss.data.tracks import STEMS, Track
from jaxmss.errors import InputError
from jaxmss.typing import Float

TITLE = "Falcon 69"
ARTIST = "The Easton Ellises"
LICENCE = "CC BY-NC-SA 3.0"
SAMPLE_RATE = 44100


def recording_path() -> Path:
    """Return the .stem.mp4 file of MUSDB18 that the package `stempeg` ships: 6 s of stereo at 44.1 kHz.

    `stempeg` itself is not imported, for it refuses to be without an ffmpeg. Raises `InputError` where the recording is
    not there.
    """
    spec = importlib.util.find_spec("stempeg")
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in Path(folder, "data").glob("*.stem.mp4")]
    if not files:
        raise InputError("The package stempeg, which ships the recording, is not complete; run `pip install stempeg`")
    return files[0]


def read_recording() -> dict[str, Float[np.ndarray, "2 t"]]:
    """Return the four stems of the recording.

    The song's own mixture is left out: it is mastered, and so not the sum of the stems. Raises `InputError` where the
    recording is not there.
    """
    stems, _ = Track(TITLE, recording_path()).read(STEMS)
    return stems
