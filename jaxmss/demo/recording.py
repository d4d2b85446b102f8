"""The recording that the demonstration separates."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import av
import numpy as np

from jaxmss.errors import InputError
from jaxmss.typing import Float

TITLE = "Falcon 69"
ARTIST = "The Easton Ellises"
LICENCE = "CC BY-NC-SA 3.0"
SAMPLE_RATE = 44100
STEMS = ("drums", "bass", "other", "vocals")  # the streams of a .stem.mp4 of MUSDB18 after its mixture


def read_recording() -> dict[str, Float[np.ndarray, "2 t"]]:
    """Return the four stems of the song of MUSDB18 that the package `stempeg` ships: 6 s of stereo at 44.1 kHz.

    The song's own mixture is left out: it is mastered, and so not the sum of the stems. `stempeg` itself is not
    imported, for it refuses to be without an ffmpeg. Raises `InputError` where the recording is not there.
    """
    spec = importlib.util.find_spec("stempeg")
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in Path(folder, "data").glob("*.stem.mp4")]
    if not files:
        raise InputError("The package stempeg, which ships the recording, is not complete; run `pip install stempeg`")
    stems = {}
    for stream, stem in enumerate(STEMS, start=1):
        with av.open(str(files[0])) as container:
            frames = container.decode(container.streams.audio[stream])
            stems[stem] = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return stems
