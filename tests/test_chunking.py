from __future__ import annotations

import numpy as np
import pytest
from golden_weights import GOLDEN, wave
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmss.chunking import Chunking, Segment, cut, join
from jaxmss.errors import InputError


def in_blocks(track: np.ndarray, size: int) -> list[np.ndarray]:
    return [track[:, start : start + size] for start in range(0, track.shape[1], size)]


def ramp(segment: Segment) -> np.ndarray:
    """The stand-in network of the golden data: it sees how long its input is."""
    scale = np.zeros(segment.audio.shape[1], np.float32)
    scale[: segment.length] = np.linspace(0, 1, segment.length)
    return (segment.audio * scale)[None]


@pytest.mark.parametrize("t", [900, 1000, 4000, 4321])
@pytest.mark.parametrize("block", [1, 77, 1000, 1150, 9999])
def test_track_is_cut_and_rejoined_as_published(t, block):
    segments = cut(in_blocks(wave(7, (1, 2, t))[0], block), Chunking(1000, 150))
    joined = np.concatenate(list(join(((s, ramp(s)) for s in segments), 0)), axis=-1)
    np.testing.assert_allclose(joined, np.load(GOLDEN / "overlap-add.npz")[f"out_{t}"], rtol=0, atol=1e-7)


@settings(deadline=None)
@given(
    t=st.integers(1, 500),
    segment=st.integers(1, 100),
    context=st.integers(0, 120),
    overlap=st.floats(0, 0.5),
    shift=st.floats(0, 1),
    block=st.integers(1, 200),
)
def test_the_identity_restores_any_track(t, segment, context, overlap, shift, block):
    chunking = Chunking(segment, context, int(segment * overlap))
    track = wave(t, (2, t))
    segments = list(cut(in_blocks(track, block), chunking, [int(shift * context)]))
    assert all(s.audio.shape == (2, chunking.window) and s.length <= chunking.window for s in segments)
    assert [s.last for s in segments] == [False] * (len(segments) - 1) + [True]
    joined = np.concatenate(list(join(((s, s.audio[None]) for s in segments), chunking.overlap)), axis=-1)
    assert joined.shape == (1, 2, t)
    np.testing.assert_allclose(joined[0], track, atol=1e-6)


@settings(deadline=None)
@given(t=st.integers(1, 500), segment=st.integers(1, 100), context=st.integers(0, 120), shift=st.floats(0, 1))
def test_every_segment_has_the_context_that_the_track_offers(t, segment, context, shift):
    track = np.arange(1, t + 1, dtype=np.float32)[None]  # sample i holds i + 1; 0 is padding
    displacement = int(shift * context)
    start = 0
    for s in cut([track], Chunking(segment, context), [displacement]):
        begin, end = start - s.offset, start - s.offset + s.length
        held = s.audio[0, : s.length]
        expected = np.zeros(s.length)
        known = slice(max(begin, 0), min(end, t))
        expected[known.start - begin : known.stop - begin] = track[0, known]
        assert np.array_equal(held, expected)
        assert begin == max(start - context, 0) - displacement
        assert end >= min(start + segment + context - displacement, t)
        start += s.kept


def test_cross_fade_is_linear_and_sums_to_one():
    segments = [Segment(np.zeros((1, 8)), 8, 0, 8, last) for last in (False, True)]
    estimates = [np.full((1, 1, 8), 1.0), np.full((1, 1, 8), 3.0)]
    joined = np.concatenate(list(join(zip(segments, estimates, strict=True), 4)), axis=-1)[0, 0]
    np.testing.assert_allclose(joined, [1, 1, 1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3, 3, 3])


def test_an_empty_track_has_no_segments():
    assert list(cut([], Chunking(10, 2))) == []
    assert list(cut([np.zeros((2, 0), np.float32)], Chunking(10, 2))) == []


@pytest.mark.parametrize("values", [(0, 1, 0), (10, -1, 0), (10, 1, 6), (10, 1, -1)])
def test_impossible_chunkings_are_refused_with_the_value(values):
    with pytest.raises(InputError, match="cannot be used"):
        Chunking(*values)
