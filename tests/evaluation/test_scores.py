from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmss.errors import InputError
from jaxmss.evaluation import MEASURES, SilentStemError, fit_length, frame_sdr, score_track, si_sdr, track_sdr

from .stems import largest_difference, separated, stems_of_noise

RATE = 4000


@pytest.fixture
def stems():
    references = stems_of_noise(["vocals", "drums"], 2, 2 * RATE + 100)
    return references, separated(references)


def test_sdr_alone_needs_no_filters_and_is_the_same(stems):
    alone = score_track(*stems, RATE, measures=["SDR"])
    assert list(alone["vocals"]) == ["SDR"]
    assert largest_difference(alone, score_track(*stems, RATE), ["SDR"]) == {"SDR": 0}


def test_sdr_of_a_real_near_perfect_estimate_equals_musevals(pcm, museval_scores):
    estimates = separated(pcm, leak=1e-3, noise=1e-3)
    theirs = museval_scores(pcm, estimates, 44100)
    for stem in pcm:
        np.testing.assert_allclose(frame_sdr(pcm[stem], estimates[stem], 44100), theirs[stem]["SDR"], rtol=0, atol=1e-9)


@given(samples=st.integers(1, 50), frame=st.integers(1, 60))
def test_frames_are_those_of_museval(museval_scores, samples, frame):
    from museval.metrics import Framing

    rng = np.random.default_rng(samples)
    reference, estimate = rng.normal(size=(2, 1, samples))
    expected = [10 * np.log10(np.sum(reference[:, w] ** 2) / np.sum((reference - estimate)[:, w] ** 2))
                for w in Framing(frame, frame, samples)]  # fmt: skip
    np.testing.assert_allclose(frame_sdr(reference, estimate, frame), expected, rtol=0, atol=1e-9)


def test_engine_museval_is_museval(stems, museval_scores):
    stems = [{stem: x[:1] for stem, x in waveforms.items()} for waveforms in stems]
    scores = score_track(*stems, RATE, engine="museval")
    assert largest_difference(scores, museval_scores(*stems, RATE), MEASURES) == dict.fromkeys(MEASURES, 0)


def test_accompaniment_is_scored_against_the_vocals_alone_as_in_museval(museval_scores):
    import museval

    references = stems_of_noise(["drums", "bass", "vocals"], 1, 3 * RATE)
    references["accompaniment"] = references["drums"] + references["bass"]
    estimates = separated(references)
    track = SimpleNamespace(
        name="song", rate=RATE, targets={stem: SimpleNamespace(audio=x.T) for stem, x in references.items()}
    )
    store = museval.eval_mus_track(track, {stem: x.T for stem, x in estimates.items()})
    theirs = {
        target["name"]: {m: np.array([float(f["metrics"][m]) for f in target["frames"]]) for m in MEASURES}
        for target in store.scores["targets"]
    }
    scores = score_track(references, estimates, RATE)
    assert list(scores) == list(references)
    assert max(largest_difference(scores, theirs, MEASURES).values()) < 1e-4  # museval writes five decimals


def test_a_float32_track_is_measured_in_float64():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(2, RATE)).astype(np.float32)
    estimate = np.nextafter(reference, np.float32(9))
    exact = 10 * np.log10(np.sum(reference.astype(float) ** 2) / np.sum((reference - estimate.astype(float)) ** 2))
    np.testing.assert_allclose(frame_sdr(reference, estimate, RATE), [exact], rtol=0, atol=1e-9)


def test_track_sdr_counts_all_samples_and_stays_finite():
    reference, estimate = np.ones((2, 100_000)), np.full((2, 100_000), 0.9)
    assert track_sdr(reference, estimate) == pytest.approx(20, abs=1e-9)
    assert track_sdr(np.zeros((2, 10)), np.zeros((2, 10))) == 0
    assert track_sdr(reference, reference) == pytest.approx(10 * np.log10(2e5 / 1e-7), abs=1e-6)


def test_si_sdr_knows_no_gain_and_measures_what_is_orthogonal():
    reference, other = np.zeros((2, 2, 70_000))
    reference[:, ::2], other[:, 1::2] = 1, 0.1
    assert si_sdr(reference, reference + other) == pytest.approx(20, abs=1e-9)
    assert si_sdr(reference, -3 * (reference + other)) == pytest.approx(20, abs=1e-9)
    assert si_sdr(reference, 2 * reference) == np.inf
    assert np.isnan(si_sdr(0 * reference, other))


@pytest.mark.parametrize("measure", [track_sdr, si_sdr, lambda r, e: frame_sdr(r, e, 10)])
@pytest.mark.parametrize("shape", [(1, 50), (2, 49), (50,)])
def test_a_pair_of_unequal_shapes_is_refused(measure, shape):
    with pytest.raises(InputError, match=r"reference has shape \(2, 50\) and estimate"):
        measure(np.ones((2, 50)), np.ones(shape))


@pytest.mark.parametrize("samples", [70, 100, 130])
def test_fit_length_cuts_and_pads_as_museval_does(museval_scores, samples):
    from museval import pad_or_truncate

    estimate = np.random.default_rng(0).normal(size=(2, samples))
    _, expected = pad_or_truncate(np.zeros((1, 100, 2)), estimate.T[None])
    np.testing.assert_array_equal(fit_length(estimate, 100), expected[0].T)


def with_sample(waveform, value):
    out = waveform.copy()
    out[1, 4321] = value
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, e: e.update(drums=e["drums"][:, :-1]), "estimate of 'drums' has 2 channels and 8099 samples"),
        (lambda r, e: e.update(drums=e["drums"][:1]), "estimate of 'drums' has 1 channels and 8100 samples"),
        (lambda r, e: r.update(drums=r["drums"][:, 1:]), "reference of 'drums' has 2 channels and 8099 samples"),
        (lambda r, e: e.update(drums=e["drums"].T), r"estimate of 'drums' has shape \(8100, 2\): .*channels, samples"),
        (lambda r, e: r.update(vocals=r["vocals"][0]), r"reference of 'vocals' has shape \(8100,\)"),
        (lambda r, e: r.update(vocals=r["vocals"][:, :0]), r"reference of 'vocals' has shape \(2, 0\)"),
        (lambda r, e: e.update(drums=with_sample(e["drums"], np.nan)), "estimate of 'drums' has a NaN .* sample 4321"),
        (lambda r, e: e.update(drums=with_sample(e["drums"], np.inf)), "estimate of 'drums' has a NaN .* sample 4321"),
        (lambda r, e: r.update(drums=with_sample(r["drums"], np.nan)), "reference of 'drums' has a NaN .* sample 4321"),
        (lambda r, e: e.pop("drums"), "no estimate of stem 'drums': estimates hold vocals"),
        (lambda r, e: e.update(drum=e["drums"]), "no reference for the estimate 'drum'; did you mean 'drums'"),
        (lambda r, e: r.clear() or e.clear(), "no reference stems"),
    ],
)
def test_stems_that_cannot_be_scored_are_refused_in_one_line(stems, change, message):
    references, estimates = stems
    change(references, estimates)
    with pytest.raises(InputError, match=message) as caught:
        score_track(references, estimates, RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["jaxmss", "museval"])
@pytest.mark.parametrize("kind", [0, 1], ids=["reference", "estimate"])
def test_a_silent_stem_is_reported_as_such(stems, kind, engine):
    stems[kind]["vocals"][:] = 0
    with pytest.raises(SilentStemError, match="of 'vocals' is silent throughout"):
        score_track(*stems, RATE, engine=engine)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"measures": ["SDR", "SDK"]}, "unknown measure 'SDK'; did you mean 'SDR'"),
        ({"engine": "musevall"}, "unknown engine 'musevall'; did you mean 'museval'"),
    ],
)
def test_requests_that_make_no_sense_are_refused(stems, request_, message):
    with pytest.raises(InputError, match=message):
        score_track(*stems, **({"sample_rate": RATE} | request_))


def test_museval_without_ffmpeg_says_what_is_missing(tmp_path):
    program = (
        "import numpy as np; from jaxmss.evaluation import score_track; x = {'a': np.ones((1, 9))};"
        "score_track(x, x, 9, engine='museval')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "InputError: engine 'museval' cannot start" in result.stderr
    assert "ffmpeg" in result.stderr.splitlines()[-1]


def test_scores_import_neither_jax_nor_museval():
    program = "import sys, jaxmss.evaluation; print({'jax', 'flax', 'museval', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "set()"
