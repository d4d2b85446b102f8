"""From frames to a track, and from tracks to a data set: medians as in museval, beside them mean and spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmss.errors import InputError


@dataclass(frozen=True)
class Summary:
    """One measure of one stem over a data set, in dB.

    Attributes:
        median: of the tracks' medians, the figure that is published.
        mean: of the tracks' medians.
        spread: standard deviation of the tracks' medians.
        tracks: how many tracks had a scored frame; the others take no part.
    """

    median: float
    mean: float
    spread: float
    tracks: int


def median_over_frames(scores: Float[np.ndarray, " w"]) -> float:
    """Return the median of the scored frames; `nan` where no frame was scored (all of them are `nan`)."""
    scored = scores[~np.isnan(scores)]
    return float(np.median(scored)) if scored.size else float("nan")


def aggregate(tracks: Iterable[Mapping[str, Mapping[str, Float[np.ndarray, " _"]]]]) -> dict[str, dict[str, Summary]]:
    """Summarise what `score_track` returned for every track: stem -> measure -> `Summary`.

    A stem or measure that a track lacks, or that has no scored frame in it, is left out of that summary and of its
    count. Raises `InputError` for no tracks.
    """
    medians: dict[str, dict[str, list[float]]] = {}
    for track in tracks:
        for stem, measures in track.items():
            for measure, scores in measures.items():
                medians.setdefault(stem, {}).setdefault(measure, []).append(median_over_frames(scores))
    if not medians:
        raise InputError("no scores to aggregate: score at least one track")
    return {stem: {m: _summarise(np.array(v)) for m, v in measures.items()} for stem, measures in medians.items()}


def _summarise(medians: Float[np.ndarray, " n"]) -> Summary:
    scored = medians[~np.isnan(medians)]
    if not scored.size:
        return Summary(float("nan"), float("nan"), float("nan"), 0)
    with np.errstate(invalid="ignore"):  # perfect tracks: the spread about an infinite mean is nan
        return Summary(float(np.median(scored)), float(scored.mean()), float(scored.std()), scored.size)
