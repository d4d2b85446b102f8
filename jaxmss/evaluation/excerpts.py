"""The worst moments of a data set, kept for the report to be listened to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.evaluation.aggregation import median_over_frames
from jaxmss.evaluation.scores import TrackScores

FRAMES = 5  # of 1 s: long enough to listen to, and for a median that one nearly silent frame does not decide
KEPT = 5
_FOLDER = "excerpts"

Waveform = Float[np.ndarray, "c t"]


class Worst(NamedTuple):
    """The worst excerpt of a track: its stem, its first frame, and its median SDR in dB."""

    stem: str
    frame: int
    sdr: float


class Excerpt(NamedTuple):
    """What there was to separate, what came out and what should have: (c, t) each, at a rate in Hz."""

    mixture: Waveform
    estimate: Waveform
    reference: Waveform
    sample_rate: int


def find_worst(scores: TrackScores) -> Worst | None:
    """Return the stem and the `FRAMES` seconds of it with the lowest median SDR; None if no frame was scored."""
    found = [
        Worst(stem, first, median_over_frames(sdr[first : first + FRAMES]))
        for stem, sdr in ((stem, measures["SDR"]) for stem, measures in scores.items())
        for first in range(max(len(sdr) - FRAMES, 0) + 1)
    ]
    return min((worst for worst in found if not np.isnan(worst.sdr)), key=lambda worst: worst.sdr, default=None)


def write_excerpt(
    output: Path,
    track: str,
    worst: Worst,
    mixture: Waveform,
    estimates: Mapping[str, Waveform],
    references: Mapping[str, Waveform],
    rate: int,
) -> None:
    """Keep the excerpt of a track under `output`. Raises `AudioError` if it cannot be written."""
    part = slice(worst.frame * rate, (worst.frame + FRAMES) * rate)
    path = _path(output, track)
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    stack = np.stack([x[:, part] for x in (mixture, estimates[worst.stem], references[worst.stem])])
    with written_aside([path]) as [file], reporting(path):
        np.savez(file, audio=stack.astype(np.float32), rate=rate)


def read_excerpt(output: Path, track: str) -> Excerpt | None:
    """Return the excerpt that was kept of a track, or None: a run over more tracks dropped it for worse ones."""
    if not _path(output, track).exists():
        return None
    with np.load(_path(output, track)) as stored:
        mixture, estimate, reference = stored["audio"]
        return Excerpt(mixture, estimate, reference, int(stored["rate"]))


def worst_tracks(tracks: Mapping[str, TrackScores]) -> dict[str, Worst]:
    """Return the worst excerpts of the `KEPT` tracks with the worst ones, the worst first."""
    found = {track: worst for track, scores in tracks.items() if (worst := find_worst(scores)) is not None}
    return dict(sorted(found.items(), key=lambda item: item[1].sdr)[:KEPT])


def drop_others(output: Path, tracks: Mapping[str, TrackScores]) -> None:
    """Remove the excerpts of those of `tracks` that are not among the worst."""
    for track in set(tracks) - set(worst_tracks(tracks)):
        _path(output, track).unlink(missing_ok=True)


def _path(output: Path, track: str) -> Path:
    return output / _FOLDER / f"{track}.npz"
