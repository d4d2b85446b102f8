"""Resampling neither shifts nor loses samples, in blocks as in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from audio.files import music
from jaxmss.audio.channels import to_channels
from jaxmss.audio.resampling import Resampler, resample, resampled_length

RATES = [8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("t", [1, 2, 3, 441, 10007])
def test_there_and_back_gives_the_first_length(rate, t):
    waveform = music(1.0)[:, :t]
    there = resample(waveform, 44100, rate)
    assert there.shape == (2, resampled_length(t, 44100, rate))
    assert resample(there, rate, 44100, length=t).shape == waveform.shape


@pytest.mark.parametrize("rate", RATES)
def test_there_and_back_keeps_what_both_rates_can_hold(rate):
    t = np.arange(44100) / 44100
    waveform = np.sin(2 * np.pi * np.array([[440.0], [1000.0]]) * t).astype(np.float32)
    back = resample(resample(waveform, 44100, rate), rate, 44100, length=44100)
    inner = slice(4410, -4410)  # a tone that starts at once has more bandwidth at its ends than 8 kHz can hold
    np.testing.assert_allclose(back[:, inner], waveform[:, inner], atol=2e-6)


@pytest.mark.parametrize("rate", RATES)
def test_a_click_stays_in_its_place(rate):
    click = np.zeros((1, 8820), np.float32)
    click[0, 4400] = 1.0
    out = resample(click, 44100, rate)
    assert np.argmax(out) == round(4400 * rate / 44100)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (8000, 44100), (192000, 44100)])
@pytest.mark.parametrize("block", [1, 100, 4096, 65536])
def test_blocks_give_the_samples_of_one_piece(from_rate, to_rate, block):
    waveform = music(0.1, from_rate)
    resampler = Resampler(from_rate, to_rate, 2)
    parts = [resampler.process(waveform[:, i : i + block]) for i in range(0, waveform.shape[1], block)]
    streamed = np.concatenate([*parts, resampler.flush()], axis=1)
    np.testing.assert_array_equal(streamed, resample(waveform, from_rate, to_rate))


def test_equal_rates_change_nothing():
    waveform = music(0.1)
    resampler = Resampler(44100, 44100, 2)
    np.testing.assert_array_equal(resampler.process(waveform), waveform)
    assert resampler.flush().shape == (2, 0)
    np.testing.assert_array_equal(resample(waveform, 44100, 44100), waveform)


def test_nothing_stays_nothing():
    assert resample(np.zeros((2, 0), np.float32), 44100, 48000).shape == (2, 0)


def test_an_end_before_what_was_returned_is_refused():
    resampler = Resampler(44100, 44100, 1)
    resampler.process(np.zeros((1, 10), np.float32))
    with pytest.raises(ValueError, match="cannot end at 9 samples: 10"):
        resampler.flush(9)


def test_mono_is_repeated_and_stereo_is_averaged():
    stereo = music(0.01)
    mono = stereo[:1]
    np.testing.assert_array_equal(to_channels(mono, 2), np.concatenate([mono, mono]))
    np.testing.assert_array_equal(to_channels(stereo, 1), stereo.mean(axis=0, keepdims=True))
    np.testing.assert_array_equal(to_channels(to_channels(mono, 2), 1), mono)
    assert to_channels(stereo, 2) is stereo
    with pytest.raises(ValueError, match="2 channels into 3"):
        to_channels(stereo, 3)
