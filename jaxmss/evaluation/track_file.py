"""One track's scores as a JSON file in the format of museval's `TrackStore`, which museval's aggregation reads.

museval's rules hold: five decimals, and `NaN` for an infinite score. The key ``jaxmss``, which museval passes over,
holds what else was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.errors import InputError
from jaxmss.evaluation.scores import MEASURES, TrackScores

_MUSEVAL = "0.4.1"  # whose rules the scores follow
_ORDER = ("SDR", "SIR", "SAR", "ISR")  # in which museval writes them


@dataclass(frozen=True)
class TrackResult:
    """What was measured on one track.

    Attributes:
      scores: stem -> measure -> dB in each frame of 1 s; `nan` where nothing was scored.
      whole: stem -> ``SDR`` and ``SI-SDR`` over the whole track, in dB.
      seconds: length of the track.
      separation: seconds that it took to separate, or None if the estimates were given.
      scoring: seconds that it took to score.
      fitted: which estimates were cut or padded to the track's length, and by how much.
      inputs: a digest of the names, sizes and times of the files that it was measured on.
    """

    scores: TrackScores
    whole: Mapping[str, Mapping[str, float]]
    seconds: float
    separation: float | None
    scoring: float
    fitted: tuple[str, ...] = ()
    inputs: str = ""


def write_track(path: Path, result: TrackResult) -> None:
    """Write the file, whole or not at all. Raises `AudioError` if it cannot be written."""
    targets = []
    for stem, measures in result.scores.items():
        frames = zip(*(measures[measure] for measure in _ORDER), strict=True)
        targets.append(
            {
                "name": stem,
                "frames": [
                    {
                        "time": float(w),
                        "duration": 1.0,
                        "metrics": dict(zip(_ORDER, map(_decibels, frame), strict=True)),
                    }
                    for w, frame in enumerate(frames)
                ],
            }
        )
    extra = {"whole": result.whole, "seconds": result.seconds} | {
        "separation_seconds": result.separation,
        "scoring_seconds": result.scoring,
        "fitted": result.fitted,
        "inputs": result.inputs,
    }
    write_json(path, {"targets": targets, "museval_version": _MUSEVAL, "jaxmss": extra})


def read_track(path: Path) -> TrackResult:
    """Read what `write_track` wrote. Raises `InputError` for a file that is something else."""
    stored = read_json(path)
    try:
        extra = stored["jaxmss"]
        scores = {
            target["name"]: {
                measure: np.array([frame["metrics"][measure] for frame in target["frames"]], float)
                for measure in MEASURES
            }
            for target in stored["targets"]
        }
        times = extra["separation_seconds"], extra["scoring_seconds"]
        return TrackResult(
            scores, extra["whole"], extra["seconds"], *times, tuple(extra.get("fitted", ())), extra.get("inputs", "")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} holds no scores of this program ({error!r}); remove it") from error


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all. Raises `AudioError` if it cannot be written."""
    with written_aside([path]) as [file], reporting(path):
        file.write((json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict:
    """Read a JSON file that holds an object. Raises `InputError` if it is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} holds no JSON object; remove it")
    return content


def _decibels(score: float) -> float:
    return round(float(score), 5) if math.isfinite(score) else math.nan
