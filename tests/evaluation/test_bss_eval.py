"""BSS Eval v4 against museval itself, and against figures that museval wrote.

`golden/museval-regression.npz` holds `references` and `estimates` (j c t) in 16-bit samples, their `sample_rate`, the
`stems`, and as `scores` (measure, j, frame) what `museval.evaluate(references, estimates, win=sample_rate,
hop=sample_rate)` returned for them; as `scores_mono` with both channels of the first reference equal, as `scores_sum`
with the third reference the sum of the others. There museval solves a singular system by rounding, which differs
between processors: it is not asked again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmss.evaluation import MEASURES, score_track

from .stems import largest_difference, separated, stems_of_noise

GOLDEN = Path(__file__).parents[1] / "golden"
RATE = 4000


def assert_agreement(scores, others, sdr=1e-9, projected=1e-3):
    differences = largest_difference(scores, others, MEASURES)
    assert differences.pop("SDR") < sdr
    assert max(differences.values()) < projected, differences


def first_mono(references):
    references[0, 1] = references[0, 0]


def third_dependent(references):
    references[2] = references[0] + references[1]


@pytest.mark.parametrize(
    ("change", "key"), [(lambda _: None, "scores"), (first_mono, "scores_mono"), (third_dependent, "scores_sum")]
)
def test_scores_of_the_regression_file_are_reproduced(change, key):
    data = np.load(GOLDEN / "museval-regression.npz")
    references, estimates = data["references"] / 32768, data["estimates"] / 32768
    change(references)
    written = {s: dict(zip(MEASURES, data[key][:, j], strict=True)) for j, s in enumerate(data["stems"])}
    stems = [dict(zip(data["stems"].tolist(), x, strict=True)) for x in (references, estimates)]
    assert_agreement(score_track(*stems, int(data["sample_rate"])), written)


def test_vocals_of_spleeter_score_what_museval_wrote(recording):
    data = np.load(GOLDEN / "spleeter-falcon.npz")
    references = {"vocals": recording["vocals"], "rest": recording["drums"] + recording["bass"] + recording["other"]}
    estimates = {"vocals": data["vocals"].T, "rest": recording["mixture"] - data["vocals"].T}
    scores = score_track(references, estimates, 44100)["vocals"]
    for measure in MEASURES:
        np.testing.assert_allclose(scores[measure], data[f"museval_{measure.lower()}"][0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("leak", "noise"), [(0.3, 0.1), (1e-4, 1e-4)], ids=["noisy", "near-perfect"])
def test_real_stems_score_as_in_museval(pcm, museval_scores, leak, noise):
    estimates = separated(pcm, leak, noise)
    assert_agreement(score_track(pcm, estimates, 44100), museval_scores(pcm, estimates, 44100))


def test_four_real_stems_score_as_in_museval(recording, museval_scores):
    two_seconds = slice(88200, 180000)
    references = {
        s: np.round(recording[s][:, two_seconds] * 32768) / 32768 for s in ("drums", "bass", "other", "vocals")
    }
    estimates = separated(references)
    assert_agreement(score_track(references, estimates, 44100), museval_scores(references, estimates, 44100))


def test_mono_references_and_estimates_score_as_one_channel():
    references = stems_of_noise(["a", "b"], 1, 9000)
    estimates = separated(references)
    twice = [{stem: np.repeat(x, 2, axis=0) for stem, x in stems.items()} for stems in (references, estimates)]
    assert_agreement(score_track(*twice, RATE), score_track(references, estimates, RATE), 1e-9, 1e-8)


@pytest.mark.parametrize("silent", ["reference", "estimate"])
def test_a_frame_in_which_one_stem_is_silent_is_unscored_for_all(museval_scores, silent):
    references = stems_of_noise(["a", "b"], 1, 5 * RATE + 17)
    estimates = separated(references)
    {"reference": references, "estimate": estimates}[silent]["a"][:, RATE : 3 * RATE + 100] = 0
    scores = score_track(references, estimates, RATE)
    np.testing.assert_array_equal(np.isnan(scores["b"]["SDR"]), [False, True, True, False, False])
    assert_agreement(scores, museval_scores(references, estimates, RATE))


def test_channels_that_cancel_count_as_silence_as_in_museval(museval_scores):
    references = stems_of_noise(["a", "b"], 2, 3 * RATE)
    references["a"][1, :RATE] = -references["a"][0, :RATE]
    estimates = separated(references)
    scores = score_track(references, estimates, RATE)
    assert np.isnan(scores["b"]["SDR"][0])
    assert_agreement(scores, museval_scores(references, estimates, RATE))


def test_a_quiet_stem_keeps_its_scores_beside_a_loud_one():
    references = stems_of_noise(["a", "b"], 2, 12000)
    estimates = separated(references, leak=0)  # no interference: a gain on one stem changes nothing
    gains = {"a": 1.0, "b": 1e-7}
    quiet = [{stem: gains[stem] * x for stem, x in stems.items()} for stems in (references, estimates)]
    assert_agreement(score_track(*quiet, RATE), score_track(references, estimates, RATE), 1e-8, 1e-6)


def test_perfect_estimates_score_infinity():
    references = stems_of_noise(["a", "b"], 2, 9000)
    for measures in score_track(references, references, RATE).values():
        assert all(np.isposinf(scores).all() for scores in measures.values())


@settings(max_examples=6, deadline=None)
@given(
    stems=st.integers(1, 2), channels=st.integers(1, 3), samples=st.integers(7000, 12000), seed=st.integers(0, 2**31)
)
def test_scores_equal_musevals_for_any_length_and_channels(museval_scores, stems, channels, samples, seed):
    references = stems_of_noise("ab"[:stems], channels, samples, seed)
    estimates = separated(references, seed=seed + 1)
    scores, theirs = score_track(references, estimates, RATE), museval_scores(references, estimates, RATE)
    if stems == 1:  # nothing can interfere: museval reports rounding
        assert np.isposinf(scores["a"].pop("SIR")).all()
        assert (theirs["a"].pop("SIR") > 200).all()
    differences = largest_difference(scores, theirs, scores["a"])
    assert differences.pop("SDR") < 1e-9
    assert max(differences.values()) < 1e-3


@settings(max_examples=5, deadline=None)
@given(order=st.permutations("abc"), gain=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_scores_know_no_order_of_stems_and_no_common_gain(order, gain, seed):
    references = stems_of_noise("abc", 1, 5000, seed)
    estimates = separated(references, seed=seed + 1)
    changed = [{stem: gain * stems[stem] for stem in order} for stems in (references, estimates)]
    assert_agreement(score_track(*changed, RATE), score_track(references, estimates, RATE), 1e-9, 1e-6)
