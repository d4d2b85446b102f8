from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
from golden_weights import wave
from tiny import CONTEXT, SEGMENT

from jaxmss.errors import AudioError, InputError
from jaxmss.separator import Options, Separator, separate


@pytest.fixture(scope="module")
def vocals() -> Separator:
    return tiny.model("cws-small")


@pytest.fixture(scope="module")
def joint() -> Separator:
    return tiny.model("cws-joint")


def as_published(model: Separator, track: np.ndarray) -> np.ndarray:
    """The published scheme, each segment an input of its own length."""
    t = track.shape[1]
    if t <= SEGMENT:
        return np.asarray(model(np.pad(track, ((0, 0), (0, SEGMENT + CONTEXT - t)))[None]))[0, ..., :t]
    kept = []
    for start in range(0, t, SEGMENT):
        first = max(start - CONTEXT, 0)
        estimate = np.asarray(model(track[None, :, first : start + SEGMENT + CONTEXT]))[0]
        kept.append(estimate[..., start - first :][..., :SEGMENT])
    return np.concatenate(kept, axis=-1)


@pytest.mark.parametrize("t", [1, 777, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 12345])
def test_a_track_is_separated_as_published(vocals, t):
    track = wave(t, (2, t))
    stems = separate(vocals, track)
    assert stems.shape == (1, 2, t)
    assert stems.dtype == np.float32
    np.testing.assert_allclose(stems, as_published(vocals, track), rtol=0, atol=1e-5)


def test_one_program_serves_tracks_of_all_lengths(vocals):
    fresh = replace(vocals)
    for t in (1, 1000, SEGMENT, 2 * SEGMENT + 1, 3 * SEGMENT):
        separate(fresh, wave(t, (2, t)))
    assert fresh._apply._cache_size() == 1


def test_an_empty_track_gives_empty_stems(joint):
    assert separate(joint, np.zeros((2, 0), np.float32)).shape == (3, 2, 0)


def test_silence_stays_finite(vocals):
    assert np.isfinite(separate(vocals, np.zeros((2, 1000), np.float32))).all()


def test_sources_come_in_the_order_asked_for(joint):
    track = wave(1, (2, 60000))
    everything = separate(joint, track)
    np.testing.assert_allclose(separate(joint, track, ["other", "bass"]), everything[[2, 0]], rtol=0, atol=1e-6)
    assert np.abs(everything[2] - everything[0]).max() > 0.01


def test_mono_is_given_to_both_channels_and_averaged_back(vocals):
    mono = wave(2, (1, 50000))
    stems = separate(vocals, mono)
    assert stems.shape == (1, 1, 50000)
    np.testing.assert_allclose(stems, separate(vocals, mono.repeat(2, 0)).mean(1, keepdims=True), rtol=0, atol=1e-6)


def test_batches_change_nothing(vocals):
    track = wave(3, (2, 4 * SEGMENT + 99))
    batched = separate(vocals, track, options=Options(batch_size=3))
    np.testing.assert_allclose(batched, separate(vocals, track), rtol=0, atol=1e-5)


def test_overlapping_segments_are_cross_faded(vocals):
    t = 2 * SEGMENT + 100
    track = wave(4, (2, t))
    overlap, step = SEGMENT // 4, SEGMENT - SEGMENT // 4
    expected = np.zeros((1, 2, t))
    for start in range(0, t, step):  # the last segment lies within the overlap of the one before
        first, kept = max(start - CONTEXT, 0), min(SEGMENT, t - start)
        estimate = np.asarray(vocals(track[None, :, first : start + SEGMENT + CONTEXT]))[0]
        weight = np.ones(kept)
        share = np.arange(1, overlap + 1) / (overlap + 1)
        if start:
            weight[:overlap] = share[:kept]
        if start + step < t:
            weight[step:] = 1 - share[: kept - step]
        expected[..., start : start + kept] += weight * estimate[..., start - first :][..., :kept]
    stems = separate(vocals, track, options=Options(overlap=0.25))
    np.testing.assert_allclose(stems, expected, rtol=0, atol=1e-5)


def test_shifts_are_averaged_and_repeat(vocals):
    track = wave(5, (2, 2 * SEGMENT + 5000))
    options = Options(shifts=3)
    stems = separate(vocals, track, options=options)
    assert np.array_equal(stems, separate(vocals, track, options=options))

    delays = np.random.default_rng(0).integers(0, 22050 + 1, 3)
    expected = np.mean([as_published(vocals, np.pad(track, ((0, 0), (d, 0))))[..., d:] for d in delays], axis=0)
    np.testing.assert_allclose(stems, expected, rtol=0, atol=1e-5)
    assert np.abs(stems - separate(vocals, track)).max() > 1e-3


def test_segment_and_context_are_options(vocals):
    options = Options(segment=0.5, context=0.1)
    chunking = vocals.chunking(options)
    assert (chunking.segment, chunking.window) == (22050, 22050 + 2 * 4410)
    track = wave(6, (2, 22050 + 4410))
    estimate = np.asarray(vocals(track[None]))[0]
    stems = separate(vocals, track, options=options)
    np.testing.assert_allclose(stems[..., :22050], estimate[..., :22050], rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_where_they_are(vocals, value):
    track = wave(7, (2, 100))
    track[1, 42] = value
    with pytest.raises(AudioError, match="not finite at sample 42"):
        separate(vocals, track)


def test_unknown_sources_are_refused_with_a_suggestion(joint):
    for call in (lambda: separate(joint, wave(8, (2, 10)), ["drum"]), lambda: joint.chosen(["bass", "drum"])):
        with pytest.raises(InputError, match=r"no stem 'drum'; did you mean 'drums'\?"):
            call()
    with pytest.raises(InputError, match="at least one stem"):
        joint.chosen([])
    with pytest.raises(InputError, match="each stem once"):
        joint.chosen(["bass", "bass"])


def test_other_channel_counts_are_refused(vocals):
    with pytest.raises(AudioError, match=r"\(3, 10\); it must be \(2 or 1, samples\)"):
        separate(vocals, wave(9, (3, 10)))
    with pytest.raises(InputError, match=r"\(1, 1, 10\); it must be \(batch, 2, samples\)"):
        vocals(wave(9, (1, 1, 10)))


def test_other_numbers_of_axes_are_refused_where_annotations_are_not_checked():
    code = f"""
import jaxmss, numpy as np
model = jaxmss.load({str(tiny.checkpoint("cws-small"))!r})
for call in (lambda: jaxmss.separate(model, np.zeros(5)), lambda: model(np.zeros((2, 5)))):
    try:
        call()
    except ValueError as error:
        print(type(error).__name__, error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        "AudioError The waveform has shape (5,); it must be (2 or 1, samples)",
        "InputError The mixture has shape (2, 5); it must be (batch, 2, samples)",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("segment", value) for value in (0.0, -1.0, np.nan, np.inf, 1e9)),
        *(("context", value) for value in (-1.0, np.nan, np.inf, 1e9)),
        *(("overlap", value) for value in (-0.1, 0.9, np.nan)),
        *(("shifts", value) for value in (0, -1, 10**9)),
        *(("batch_size", value) for value in (0, 10**9)),
    ],
)
def test_impossible_options_are_refused_with_their_value(field, value):
    with pytest.raises(InputError, match=f"{field}.*=.*cannot be used: it must"):
        Options(**{field: value})


def test_a_segment_of_no_sample_is_refused(vocals):
    with pytest.raises(InputError, match="at least one sample"):
        separate(vocals, wave(10, (2, 10)), options=Options(segment=1e-6))


@pytest.mark.parametrize("lengths", [[400, 2001], [-1, 5], [2000], [[2000], [2000]], [0.5, 2.0], 2000])
def test_lengths_that_do_not_fit_the_batch_are_refused(vocals, lengths):
    with pytest.raises(InputError, match="give 2 whole numbers from 0 to 2000"):
        vocals(wave(1, (2, 2, 2000)), lengths=lengths)


def test_lengths_may_be_a_list(vocals):
    mixture = wave(1, (2, 2, 2000))
    both = vocals(mixture, lengths=[2000, 700])
    alone = vocals(mixture[1:, :, :700])
    np.testing.assert_allclose(both[1, ..., :700], alone[0], atol=1e-5)


def test_an_empty_batch_is_refused(vocals):
    with pytest.raises(InputError, match="it must be"):
        vocals(np.zeros((0, 2, 100), np.float32))


def test_one_source_may_be_a_plain_name(joint):
    assert joint(wave(1, (1, 2, 500)), sources="drums").shape == (1, 1, 2, 500)
