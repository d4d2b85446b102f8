from __future__ import annotations

import numpy as np
import pytest

from jaxmss.errors import InputError
from jaxmss.evaluation import MEASURES, aggregate, median_over_frames


@pytest.fixture
def tracks():
    rng = np.random.default_rng(0)
    tracks = [
        {stem: {m: rng.normal(5, 3, frames) for m in MEASURES} for stem in ("vocals", "drums")}
        for frames in (7, 4, 9, 1)
    ]
    for measure in MEASURES:
        tracks[0]["vocals"][measure][2:5] = np.nan
        tracks[1]["drums"][measure][:] = np.nan
    del tracks[2]["drums"]
    return tracks


def test_medians_are_those_that_museval_aggregates(tracks, museval_scores):
    import museval

    methods = museval.EvalStore()
    for name, track in enumerate(tracks):
        store = museval.TrackStore(track_name=str(name))
        for stem, measures in track.items():
            store.add_target(stem, {m: np.where(np.isnan(x), np.inf, x) for m, x in measures.items()})
        methods.add_track(store)
    theirs = methods.agg_frames_tracks_scores()
    for stem, measures in aggregate(tracks).items():
        for measure, summary in measures.items():
            assert summary.median == pytest.approx(theirs[stem][measure], abs=1e-5)  # museval writes five decimals


def test_mean_and_spread_are_of_the_tracks_medians_and_unscored_tracks_are_not_counted(tracks):
    summary = aggregate(tracks)
    medians = [np.nanmedian(track["vocals"]["SDR"]) for track in tracks]
    assert summary["vocals"]["SDR"].mean == pytest.approx(np.mean(medians))
    assert summary["vocals"]["SDR"].spread == pytest.approx(np.std(medians))
    assert summary["vocals"]["SDR"].tracks == 4
    assert summary["drums"]["SDR"].tracks == 2


def test_median_over_frames_passes_over_unscored_frames():
    assert median_over_frames(np.array([1, np.nan, 3, np.nan, 8])) == 3
    assert median_over_frames(np.array([np.inf, 2, np.inf])) == np.inf
    assert np.isnan(median_over_frames(np.array([np.nan, np.nan])))


def test_a_data_set_of_unscored_tracks_has_no_median():
    summary = aggregate([{"vocals": {"SDR": np.full(3, np.nan)}}])["vocals"]["SDR"]
    assert np.isnan(summary.median)
    assert summary.tracks == 0


def test_no_tracks_are_refused():
    with pytest.raises(InputError, match="no scores to aggregate"):
        aggregate([])
