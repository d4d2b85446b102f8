"""museval to score with, the real recording, and a data set of noise."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from jaxmss.data import STEMS
from jaxmss.evaluation import MEASURES

from .stems import MADE, RATE, separated, stems_of_noise, write_stems


@pytest.fixture(scope="session")
def museval_scores() -> Callable:
    """Return museval's own scores in the form of `score_track`, computed by museval from arrays (c t)."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("museval imports stempeg, which needs ffmpeg on the PATH")
    import museval

    def score(references, estimates, frame, padding=False):
        stacks = [np.stack([waveforms[stem].T for stem in references]) for waveforms in (references, estimates)]
        tables = museval.evaluate(*stacks, win=frame, hop=frame, padding=padding)
        return {
            stem: {m: table[j] for m, table in zip(MEASURES, tables, strict=True)} for j, stem in enumerate(references)
        }

    return score


@pytest.fixture(scope="session")
def recording() -> dict[str, np.ndarray]:
    """Return the stems of the MUSDB18 song that stempeg ships, 6 s of stereo at 44.1 kHz, decoded without ffmpeg."""
    folder = importlib.util.find_spec("stempeg").submodule_search_locations[0]
    path = next(Path(folder, "data").glob("*.stem.mp4"))
    stems = {}
    for index, stem in enumerate(("mixture", "drums", "bass", "other", "vocals")):
        with av.open(str(path)) as container:
            frames = container.decode(container.streams.audio[index])
            stems[stem] = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return stems


@pytest.fixture(scope="session")
def pcm(recording) -> dict[str, np.ndarray]:
    """Return vocals and accompaniment of the recording as a 16-bit file holds them, like MUSDB18-HQ."""
    accompaniment = recording["drums"] + recording["bass"] + recording["other"]
    stems = {"vocals": recording["vocals"], "accompaniment": accompaniment}
    return {stem: np.clip(np.round(x * 32768), -32768, 32767) / np.float32(32768) for stem, x in stems.items()}


@pytest.fixture
def root(tmp_path):
    """Write three mono tracks of noise, 3 s and a bit, as MUSDB18-HQ lays them out, and estimates of two stems."""
    for seed, name in enumerate(("A", "B", "C")):
        references = {stem: 0.1 * x for stem, x in stems_of_noise(STEMS, 1, 3 * RATE + 99, seed).items()}
        references["mixture"] = sum(references.values())
        write_stems(tmp_path / "data" / "test" / name, references)
        write_stems(tmp_path / "estimates" / name, separated({stem: references[stem] for stem in MADE}, seed=seed))
    return tmp_path
