from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_weights import wave
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmss.levels import Level, measure


@settings(deadline=None)
@given(t=st.integers(2, 3000), channels=st.integers(1, 2), block=st.integers(1, 500), offset=st.floats(-10, 10))
def test_blocks_of_any_size_give_the_level_of_the_whole_mono_mix(t, channels, block, offset):
    track = wave(t, (channels, t)) + np.float32(offset)
    mono = torch.from_numpy(track.astype(np.float64)).mean(0)
    level = measure(track[:, i : i + block] for i in range(0, t, block))
    assert level.mean == pytest.approx(mono.mean().item(), rel=1e-9, abs=1e-12)
    assert level.deviation == pytest.approx(mono.std().item(), rel=1e-9)


def test_a_quiet_sound_on_a_large_mean_keeps_its_digits_through_many_blocks():
    quiet = 1e-3 * np.sin(np.arange(2_000_000)).astype(np.float64)
    track = (1000 + quiet)[None]
    level = measure(track[:, i : i + 1000].astype(np.float64) for i in range(0, track.shape[1], 1000))
    assert level.deviation == pytest.approx(quiet.std(ddof=1), rel=1e-6)


def test_too_few_samples_have_no_deviation():
    assert measure([]) == Level(0.0, 0.0)
    assert measure([np.zeros((2, 0), np.float32), np.full((2, 1), 0.5, np.float32)]) == Level(0.5, 0.0)
    assert Level(0.5, 0.0).scale == 1e-8
