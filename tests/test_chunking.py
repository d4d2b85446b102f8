from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from demucs.apply import apply_model
from golden_weights import GOLDEN, wave
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxmss.chunking import Chunking, Segment, Stems, cut, join
from jaxmss.config import Windows
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
    chunking = Chunking(1000, 150)
    segments = cut(in_blocks(wave(7, (1, 2, t))[0], block), chunking)
    joined = np.concatenate(list(join(((s, ramp(s)) for s in segments), chunking)), axis=-1)
    np.testing.assert_allclose(joined, np.load(GOLDEN / "overlap-add.npz")[f"out_{t}"], rtol=0, atol=1e-7)


chunkings = st.builds(
    lambda segment, context, overlap, windows: Chunking(segment, context, int(segment * overlap), windows),
    segment=st.integers(1, 100),
    context=st.integers(0, 120),
    overlap=st.floats(0, 0.5),
    windows=st.none() | st.builds(Windows, st.integers(1, 300), st.integers(1, 50)),
)
delays = st.lists(st.integers(0, 150), min_size=1, max_size=3)


@settings(deadline=None)
@given(t=st.integers(1, 500), chunking=chunkings, delays=delays, block=st.integers(1, 200))
def test_the_identity_restores_any_track(t, chunking, delays, block):
    track = wave(t, (2, t))
    segments = list(cut(in_blocks(track, block), chunking, delays))
    assert all(s.audio.shape == (2, chunking.window) and s.length <= chunking.window for s in segments)
    assert sum(s.first for s in segments) == sum(s.last for s in segments) == len(delays)
    joined = list(join(((s, s.audio[None]) for s in segments), chunking, len(delays)))
    assert all(part.shape[-1] for part in joined)
    restored = np.concatenate(joined, axis=-1)
    assert restored.shape == (1, 2, t)
    np.testing.assert_allclose(restored[0], track, atol=1e-6)


@settings(deadline=None)
@given(
    t=st.integers(1, 500),
    segment=st.integers(1, 100),
    context=st.integers(0, 120),
    delay=st.integers(0, 150),
    overlap=st.floats(0, 0.5),
)
def test_every_segment_has_the_context_that_the_track_offers(t, segment, context, delay, overlap):
    track = np.arange(1, t + 1, dtype=np.float32)[None]  # sample i holds i + 1; 0 is padding
    padded = np.pad(track, ((0, 0), (delay, 0)))
    chunking = Chunking(segment, context, int(segment * overlap))
    segments = list(cut([track], chunking, [delay]))
    assert len(segments) == len(range(0, t + delay, chunking.step))
    for start, s in zip(range(0, t + delay, chunking.step), segments, strict=True):
        assert s.start == start - delay
        first = max(start - context, 0)
        expected = padded[0, first : start + segment + context]
        assert np.array_equal(s.audio[0], np.pad(expected, (0, chunking.window - len(expected))))
        assert s.offset == start - first
        assert s.kept == min(segment, t + delay - start)
        assert s.length == (segment + context if start == 0 and t + delay <= segment else len(expected))
        assert np.array_equal(s.audio[0] > 0, np.isin(np.arange(chunking.window), np.arange(*s.inside)))


@settings(deadline=None)
@given(t=st.integers(1, 500), chunking=chunkings.filter(lambda chunking: chunking.windows), delay=st.integers(0, 150))
def test_a_segment_lies_in_the_middle_of_the_least_window_that_holds_it(t, chunking, delay):
    track = np.arange(1, t + 1, dtype=np.float32)[None]
    far = 1000
    padded = np.pad(track[0], far)
    for s in cut([track], chunking, [delay]):
        length = chunking.windows.least
        while length < s.kept + 2 * chunking.context:
            length += chunking.windows.step
        begin = s.start - (length - s.kept) // 2
        assert s.audio.shape == (1, chunking.window)
        assert np.array_equal(s.audio[0, :length], padded[far + begin : far + begin + length])
        assert not s.audio[0, length:].any()
        assert s.offset == s.start - begin
        assert s.length == length
        assert np.array_equal(s.audio[0] > 0, np.isin(np.arange(chunking.window), np.arange(*s.inside)))


class Bounded:
    """A stream of blocks that never runs further ahead of what was given back than it may."""

    def __init__(self, block: int, count: int, allowed: int):
        self.block, self.count, self.allowed, self.given_back = block, count, allowed, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(self.count):
            assert i * self.block - self.given_back <= self.allowed
            yield np.zeros((1, self.block), np.float32)


@pytest.mark.parametrize("windows", [None, Windows(1), Windows(200)])
def test_a_stream_is_read_no_further_than_a_window_ahead(windows):
    chunking, delays = Chunking(100, 30, 30, windows), [0, 20, 3]
    track = Bounded(10, 1000, chunking.window + max(delays) + 10)
    for part in join(((s, s.audio[None]) for s in cut(track, chunking, delays)), chunking, len(delays)):
        track.given_back += part.shape[-1]
    assert track.given_back == 10_000


def test_cross_fade_is_linear_and_sums_to_one():
    whole = Segment(np.zeros((1, 8)), 8, (0, 8), 0, 8, 0, True, False, 5)
    segments = [whole, replace(whole, start=5, first=False, last=True)]
    estimates = [np.full((1, 1, 8), 1.0), np.full((1, 1, 8), 3.0)]
    joined = np.concatenate(list(join(zip(segments, estimates, strict=True), Chunking(8, 0, 3))), axis=-1)[0, 0]
    np.testing.assert_allclose(joined, [1, 1, 1, 1, 1, 1.5, 2, 2.5, 3, 3, 3, 3, 3], rtol=1e-7)


class Ramp(torch.nn.Module):
    """Where in its window a sample lies matters to this network; it takes windows of some lengths, as Demucs does."""

    samplerate = 1
    sources = ("a", "b")

    def __init__(self, segment: int, windows: range):
        super().__init__()
        self.segment, self.windows = segment, windows

    def valid_length(self, length: int) -> int:
        return next(window for window in self.windows if window >= length)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        ramps = torch.stack([torch.linspace(1, 2, mix.shape[-1]), torch.linspace(3, -1, mix.shape[-1])])
        return mix[:, None] * ramps[:, None]


@settings(deadline=None)
@given(
    t=st.integers(1, 700),
    segment=st.integers(2, 120),
    least=st.integers(1, 200),
    step_of_windows=st.integers(1, 50),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.33, 0.5]),
    block=st.integers(1, 200),
)
def test_windows_and_cross_fades_are_those_of_demucs(t, segment, least, step_of_windows, overlap, block):
    step = int((1 - overlap) * segment)
    assume(segment - step <= segment // 2)  # of an odd segment, half is rounded down here and up there
    chunking = Chunking(segment, 0, segment - step, Windows(least, step_of_windows))
    network = Ramp(segment, range(least, 500, step_of_windows))
    track = wave(t, (2, t))
    expected = apply_model(network, torch.from_numpy(track)[None], shifts=0, split=True, overlap=overlap)[0]

    def estimates() -> Iterator[tuple[Segment, Stems]]:
        for s in cut(in_blocks(track, block), chunking):
            yield s, network(torch.from_numpy(s.audio[:, : s.length])[None])[0].numpy()

    joined = np.concatenate(list(join(estimates(), chunking)), axis=-1)
    np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-6)


def test_an_empty_track_has_no_segments():
    for delays in ([0], [3, 0]):
        assert list(cut([], Chunking(10, 2), delays)) == []
        assert list(cut([np.zeros((2, 0), np.float32)], Chunking(10, 2), delays)) == []


@pytest.mark.parametrize("values", [(0, 1, 0), (10, -1, 0), (10, 1, 6), (10, 1, -1)])
def test_impossible_chunkings_are_refused_with_the_value(values):
    with pytest.raises(InputError, match="cannot be used"):
        Chunking(*values)
