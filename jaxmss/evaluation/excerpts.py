"""The worst moments of a data set, kept for the report to be listened to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.evaluation.aggregation import median_over_frames
from jaxmss.evaluation.scores import TrackScores

FRAMES = 5  # of 1 s: long enough to listen to, and for a median that one nearly silent frame does not decide
KEPT = 5
NOT_KEPT = "when its track was scored others were worse, or the disk was full"
_FOLDER = "excerpts"

Waveform = Float[np.ndarray, "c t"]


class Worst(NamedTuple):
    """The worst excerpt of a stem of a track: the stem, its first frame, and its median SDR in dB."""

    stem: str
    frame: int
    sdr: float


Named = tuple[str, Worst]  # with the name of its track


class Excerpt(NamedTuple):
    """What there was to separate, what came out and what should have: (c, t) each, at a rate in Hz."""

    mixture: Waveform
    estimate: Waveform
    reference: Waveform
    sample_rate: int


def find_worst(scores: TrackScores) -> list[Worst]:
    """Return the `FRAMES` seconds of each stem with the lowest median SDR, the worst stem first, at most `KEPT`.

    A stem of which no frame was scored has none.
    """
    found = []
    for stem, sdr in ((stem, measures["SDR"]) for stem, measures in scores.items()):
        starts = range(max(len(sdr) - FRAMES, 0) + 1)
        medians = [Worst(stem, first, median_over_frames(sdr[first : first + FRAMES])) for first in starts]
        found += sorted((worst for worst in medians if not np.isnan(worst.sdr)), key=_sdr)[:1]
    return sorted(found, key=_sdr)[:KEPT]


def write_excerpt(
    output: Path,
    track: str,
    worst: Worst,
    mixture: Waveform,
    estimates: Mapping[str, Waveform],
    references: Mapping[str, Waveform],
    rate: int,
) -> None:
    """Keep an excerpt of a track under `output`. Raises `AudioError` if it cannot be written."""
    part = slice(worst.frame * rate, (worst.frame + FRAMES) * rate)
    path = _path(output, track, worst.stem)
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    stack = np.stack([x[:, part] for x in (mixture, estimates[worst.stem], references[worst.stem])])
    with written_aside([path]) as [file], reporting(path):
        np.savez(file, audio=stack.astype(np.float32), rate=rate)


def read_excerpt(output: Path, track: str, stem: str) -> Excerpt | None:
    """Return the excerpt that was kept of a track's stem, or None if there is none, or something else."""
    try:
        with np.load(_path(output, track, stem)) as stored:
            mixture, estimate, reference = stored["audio"]
            return Excerpt(mixture, estimate, reference, int(stored["rate"]))
    except (OSError, EOFError, KeyError, ValueError, BadZipFile):
        return None


def worst_excerpts(found: Mapping[str, Sequence[Worst]]) -> list[Named]:
    """Return, of what `find_worst` found in each track, the `KEPT` worst with their tracks' names, the worst first."""
    named = [(track, worst) for track, excerpts in found.items() for worst in excerpts]
    return sorted(named, key=lambda pair: pair[1].sdr)[:KEPT]


def drop_others(output: Path, found: Mapping[str, Sequence[Worst]]) -> None:
    """Remove the excerpts of these tracks that `worst_excerpts` does not name."""
    kept = {_path(output, track, worst.stem) for track, worst in worst_excerpts(found)}
    for track in found:
        for path in set(excerpt_paths(output, track)) - kept:
            path.unlink(missing_ok=True)


def excerpt_paths(output: Path, track: str) -> list[Path]:
    """Return the files of the excerpts that are kept of a track."""
    return list((output / _FOLDER / track).glob("*.npz"))


def _sdr(worst: Worst) -> float:
    return worst.sdr


def _path(output: Path, track: str, stem: str) -> Path:
    return output / _FOLDER / track / f"{stem}.npz"
