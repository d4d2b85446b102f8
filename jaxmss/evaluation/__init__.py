"""Evaluation: scores of separated stems. Nothing here imports JAX."""

from jaxmss.evaluation.aggregation import Summary, aggregate, median_over_frames
from jaxmss.evaluation.scores import (
    MEASURES,
    SilentStemError,
    TrackScores,
    fit_length,
    frame_sdr,
    score_track,
    si_sdr,
    track_sdr,
)

__all__ = [
    "MEASURES",
    "SilentStemError",
    "Summary",
    "TrackScores",
    "aggregate",
    "fit_length",
    "frame_sdr",
    "median_over_frames",
    "score_track",
    "si_sdr",
    "track_sdr",
]
