"""Synthetic stems, their files, and the distance between two tables of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 2000  # of the data set of noise
MADE = ("drums", "vocals")  # the stems of it that are estimated


def stems_of_noise(names, channels, samples, seed=0) -> dict[str, np.ndarray]:
    """Return coloured noise of about unit energy per sample, (c t) for each name."""
    rng = np.random.default_rng(seed)
    return {
        name: np.stack([np.convolve(rng.normal(size=samples), rng.normal(size=8) / 3, "same") for _ in range(channels)])
        for name in names
    }


def separated(references, leak=0.3, noise=0.1, seed=1) -> dict[str, np.ndarray]:
    """Return estimates: the references with some of the other stems, delayed, and some noise."""
    rng = np.random.default_rng(seed)
    mixture = sum(references.values())
    return {
        stem: (x + leak * np.roll(mixture - x, 3, axis=1) + noise * x.std() * rng.normal(size=x.shape)).astype(x.dtype)
        for stem, x in references.items()
    }


def largest_difference(scores, others, measures) -> dict[str, float]:
    """Return the largest difference in dB over stems and frames, for each measure; `inf` where only one has a score."""
    out = {}
    for measure in measures:
        ours, theirs = (np.array([table[stem][measure] for stem in scores]) for table in (scores, others))
        equal = np.isclose(ours, theirs, rtol=0, atol=0, equal_nan=True)  # infinities and unscored frames among them
        out[measure] = float(np.nan_to_num(np.abs(ours - theirs)[~equal], nan=np.inf).max(initial=0))
    return out


def write_stems(folder: Path, stems, rate=RATE):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, waveform in stems.items():
        soundfile.write(folder / f"{stem}.wav", waveform.T, rate, subtype="FLOAT")


def read_stems(folder: Path, stems):
    return {stem: soundfile.read(folder / f"{stem}.wav", dtype="float32", always_2d=True)[0].T for stem in stems}


def change(file: Path, change_):
    waveform, rate = soundfile.read(file, always_2d=True)
    soundfile.write(file, change_(waveform), rate, subtype="FLOAT")
