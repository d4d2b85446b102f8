"""Stems that are treated together: Wiener filtering over a stream, and sums that are the mixture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from golden_weights import wave
from stand_ins import CWSLike, DemucsLike, StandIn, compose, in_blocks

from jaxmss.audio.resampling import resample
from jaxmss.errors import InputError
from jaxmss.files import Output, separate_files
from jaxmss.options import Options
from jaxmss.refinement import OVERLAP, WINDOW, check_complete, distribute_residual, filter_blocks
from jaxmss.separator import separate
from jaxmss.systems import Part, System
from jaxmss.wiener import filter_stems

RATE = 8000
SYSTEM = System((Part("v", ("vocals",)), Part("h", ("drums", "bass", "other"))))
NETWORKS = {
    "v": StandIn(CWSLike(("vocals",), 1.0, 0.1, RATE)),
    "h": StandIn(DemucsLike(("drums", "bass", "other"), 1.5, 0.0, RATE)),
}


def test_consistent_stems_sum_to_the_mixture_and_change_least():
    stems, mixture = wave(0, (3, 2, 500)), wave(1, (2, 500))
    consistent = distribute_residual(stems, mixture)
    np.testing.assert_allclose(consistent.sum(0), mixture, rtol=0, atol=1e-6)
    # the change is the same in all stems: a projection onto those that sum to the mixture
    change = consistent - stems
    np.testing.assert_allclose(change, np.broadcast_to(change[:1], change.shape), rtol=0, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2])
def test_separate_makes_stems_consistent(channels):
    model = compose(SYSTEM, NETWORKS)
    track = wave(2, (channels, 30000))
    stems = separate(model, track, ["bass", "vocals", "other", "drums"], Options(consistent=True))
    np.testing.assert_allclose(stems.sum(0), track, rtol=0, atol=1e-6)
    assert np.abs(separate(model, track).sum(0) - track).max() > 0.01


@pytest.mark.parametrize("seconds", [0.3, WINDOW, 2 * WINDOW - OVERLAP + 0.1])
def test_a_stream_is_filtered_in_windows_that_are_cross_faded(seconds):
    rate = 500
    t = round(seconds * rate)
    stems, mixture = wave(3, (2, 2, t)), wave(4, (2, t))
    stream = filter_blocks((stems[..., i : i + 700] for i in range(0, t, 700)), in_blocks(mixture, 300), rate, 2)
    filtered = np.concatenate(list(stream), axis=-1)
    assert filtered.shape == stems.shape

    window, step, far = WINDOW * rate, (WINDOW - OVERLAP) * rate, WINDOW * rate
    triangle = np.minimum(np.arange(1, window + 1), np.arange(window, 0, -1))
    sums, weights = np.zeros(stems.shape), np.zeros(t)
    padded_stems, padded = (np.pad(x, [*[(0, 0)] * (x.ndim - 1), (far, far)]) for x in (stems, mixture))
    for start in range(0, t, step):
        kept = min(window, t - start)
        first = start - (window - kept) // 2
        part = slice(far + first, far + first + window)
        estimate = np.asarray(filter_stems(padded_stems[..., part], padded[..., part], 2))
        sums[..., start : start + kept] += estimate[..., start - first :][..., :kept] * triangle[:kept]
        weights[start : start + kept] += triangle[:kept]
    np.testing.assert_allclose(filtered, sums / weights, rtol=0, atol=1e-5)


def test_no_stems_are_filtered_to_none():
    assert list(filter_blocks(iter([]), iter([]), 100, 1)) == []


def test_separate_filters_stems():
    model = compose(SYSTEM, NETWORKS)
    track = wave(5, (2, 3 * RATE))
    plain, filtered = (separate(model, track, options=Options(wiener=n)) for n in (0, 1))
    [expected] = filter_blocks([plain], iter([track]), RATE, 1)
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(filtered.sum(0), track, rtol=0, atol=1e-3)
    assert np.abs(filtered - plain).max() > 0.01


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 2), (11025, 2), (RATE, 1)])
def test_files_are_read_for_their_level_first_and_separated_as_arrays_are(tmp_path, rate, channels):
    model = compose(SYSTEM, NETWORKS)
    track = wave(6, (channels, 4 * rate)) + np.float32(0.05)
    soundfile.write(tmp_path / "song.wav", track.T, rate, subtype="FLOAT")
    output = Output(tmp_path / "out", "wav32f", "none")
    [report] = separate_files(model, [tmp_path / "song.wav"], model.sources, output, options=Options())
    assert report.error is None
    expected = separate(model, resample(track, rate, RATE))
    for stem, waveform in zip(model.sources, expected, strict=True):
        found = soundfile.read(tmp_path / "out" / "song" / f"{stem}.wav", always_2d=True)[0].T
        np.testing.assert_allclose(found, resample(waveform, RATE, rate, track.shape[1]), rtol=0, atol=2e-5)


ALL = ("bass", "drums", "other", "vocals")


@pytest.mark.parametrize(
    ("sources", "known", "told"),
    [
        (("vocals",), ("vocals",), "vocals lack bass, drums, other and do not sum to it"),
        (("vocals", "bass"), ALL, "vocals, bass lack drums, other and do not"),
        (("bass", "drums", "other"), ("bass", "drums", "other"), "bass, drums, other lack vocals and do not"),
        (("speech",), ("speech",), "speech do not sum to it"),
        (("vocals",), ("vocals", "accompaniment"), "vocals lack accompaniment"),
    ],
)
@pytest.mark.parametrize("options", [Options(consistent=True), Options(wiener=1)])
def test_stems_that_are_no_mixture_are_not_treated_as_one(sources, known, told, options):
    with pytest.raises(InputError, match=told):
        check_complete(sources, known, options)
    check_complete(sources, known, replace(options, consistent=False, wiener=0))


@pytest.mark.parametrize("known", [ALL, ("vocals", "accompaniment"), (*ALL, "piano"), ("speech", "music")])
def test_stems_that_may_be_a_mixture_are(known):
    check_complete(known[::-1], known, Options(consistent=True, wiener=3))
