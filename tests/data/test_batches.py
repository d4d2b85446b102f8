from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RATE, STEMS, noise, write_songs

from jaxmss.data.batches import Examples, batches
from jaxmss.data.clips import Song
from jaxmss.data.mixing import Batch
from jaxmss.data.songs import fingerprint, training_songs
from jaxmss.errors import InputError
from jaxmss.models import architecture
from jaxmss.training.config import Data, Part

NETWORK = replace(architecture("cws-vocals"), sample_rate=RATE)
FOUR = tuple(Part(stem, (stem,)) for stem in STEMS)  # four independent stems, as cws-joint draws them
SAMPLES = 50


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("songs")
    write_songs(root / "train", "ABCDE", samples=300)
    return Data(root=str(root), seconds=SAMPLES / RATE, batch=8, threads=2)


@pytest.fixture(scope="module")
def songs(data) -> list[Song]:
    return training_songs(data, NETWORK)


def drawn(songs: list[Song], data: Data, start: int = 0, stop: int = 4, seed: int = 0, **options) -> list[Batch]:
    return list(batches(songs, data, RATE, 2, seed, start, stop, **options))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for field, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(field, expected)


def examples(songs: list[Song], data: Data) -> Examples:
    return Examples(songs, data, SAMPLES, seed=0)


VARIED = {"gain": (0.5, 2.0), "swap_channels": 0.5, "flip_polarity": 0.5, "remix": 0.5}


def test_a_fingerprint_tells_songs_of_other_names_stems_or_lengths(songs, data, tmp_path):
    write_songs(tmp_path / "train", "ABCDE", samples=300)
    assert fingerprint(training_songs(replace(data, root=str(tmp_path)), NETWORK)) == fingerprint(songs)
    (tmp_path / "train" / "E").rename(tmp_path / "train" / "F")
    named = fingerprint(training_songs(replace(data, root=str(tmp_path)), NETWORK))
    shutil.rmtree(tmp_path / "train" / "F")
    write_songs(tmp_path / "train", "E", samples=301)
    longer = fingerprint(training_songs(replace(data, root=str(tmp_path)), NETWORK))
    fewer = fingerprint([replace(song, clips={"vocals": song.clips["vocals"]}) for song in songs])
    assert len({fingerprint(songs), named, longer, fewer}) == 4


def test_any_number_of_threads_gives_the_same_batches(songs, data):
    varied = replace(data, **VARIED)
    assert_same(drawn(songs, replace(varied, threads=1)), drawn(songs, replace(varied, threads=8)))


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_shares_of_any_number_of_processes_are_the_same_batches(songs, data, processes):
    varied = replace(data, **VARIED)
    shares = [drawn(songs, varied, process=(place, processes)) for place in range(processes)]
    assert all(len(batch.pcm) == 8 // processes for share in shares for batch in share)
    joined = [Batch(*map(np.concatenate, zip(*step, strict=True))) for step in zip(*shares, strict=True)]
    assert_same(joined, drawn(songs, varied))


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_run_is_resumed_from_a_step_alone(songs, data, start):
    assert_same(drawn(songs, data, start, 7), drawn(songs, data, 0, 7)[start:])


def test_steps_beyond_any_epoch_are_as_good_as_the_first(songs, data):
    assert_same(drawn(songs, data, 10**12, 10**12 + 1), drawn(songs, data, 10**12 - 1, 10**12 + 1)[1:])


def test_steps_and_seeds_differ(songs, data):
    batches_of_seeds = [batch for seed in (0, 1, -1, -2, 2**64 + 2) for batch in drawn(songs, data, 0, 2, seed)]
    assert len({batch.pcm.tobytes() for batch in batches_of_seeds}) == 10


def test_a_batch_holds_what_was_drawn_and_zeros_in_unused_slots(songs, data):
    varied = replace(data, **VARIED)
    (batch,) = drawn(songs, varied, 3, 4)
    assert (batch.pcm.shape, batch.pcm.dtype) == ((8, 4, SAMPLES, 2), np.int16)
    for row in range(8):
        (vocals,), (accompaniment,) = examples(songs, varied).draw(3 * 8 + row)
        for slot, (chunk, stem) in enumerate(
            [(vocals, "vocals"), *((accompaniment, stem) for stem in accompaniment.stems)]
        ):
            expected = noise(f"{chunk.song.name}/{stem}", 300)[chunk.start : chunk.start + SAMPLES]
            np.testing.assert_array_equal(batch.pcm[row, slot], expected)
            assert batch.gain[row, slot] == np.float32(chunk.gain)
            assert batch.swap[row, slot] == chunk.swap
        used = 1 + len(accompaniment.stems)
        assert not batch.pcm[row, used:].any()
        assert not batch.gain[row, used:].any()


def is_even(counts: Counter, kinds: int) -> bool:
    """Whether draws among so many kinds look evenly likely: chi-squared, with a chance in a million of a mishap."""
    from scipy.stats import chisquare

    assert len(counts) == kinds
    return chisquare(list(counts.values())).pvalue > 1e-6


def test_choices_songs_and_places_are_drawn_evenly(songs, data):
    draws = [examples(songs, data).draw(index) for index in range(4000)]
    assert is_even(Counter(accompaniment.stems for _, (accompaniment,) in draws), 4)
    assert is_even(Counter((vocals.song.name, other.song.name) for (vocals,), (other,) in draws), 25)
    assert is_even(Counter(vocals.start for (vocals,), _ in draws), 251)
    assert is_even(Counter(other.start % 2 + 2 * (vocals.start % 2) for (vocals,), (other,) in draws), 4)
    assert all(chunk.gain == 1 and not chunk.swap for draw in draws for (chunk,) in draw)


def test_gains_swaps_and_polarities_are_drawn_as_asked(songs, data):
    varied = replace(data, gain=(0.25, 1.25), swap_channels=0.25, flip_polarity=0.75)
    chunks = [chunk for index in range(1000) for (chunk,) in examples(songs, varied).draw(index)]
    gains = np.abs([chunk.gain for chunk in chunks])
    assert 0.25 <= gains.min() < 0.26
    assert 1.24 < gains.max() <= 1.25
    assert abs(gains.mean() - 0.75) < 0.03  # less than five standard deviations
    assert abs(np.mean([chunk.swap for chunk in chunks]) - 0.25) < 0.05
    assert abs(np.mean([chunk.gain < 0 for chunk in chunks]) - 0.75) < 0.05


def test_four_parts_are_of_independent_songs(songs, data):
    draws = [examples(songs, replace(data, parts=FOUR)).draw(index) for index in range(2000)]
    for first, second in ((0, 1), (1, 2), (2, 3), (0, 3)):
        pairs = Counter((draw[first][0].song.name, draw[second][0].song.name) for draw in draws)
        assert is_even(pairs, 25)


def test_without_remix_all_parts_are_of_one_moment(songs, data):
    aligned = replace(data, parts=FOUR, remix=0.0)
    (batch,) = drawn(songs, aligned, 0, 1)
    for row in range(8):
        ((chunk,), *_) = examples(songs, aligned).draw(row)
        moment = slice(chunk.start, chunk.start + SAMPLES)
        stems = [noise(f"{chunk.song.name}/{stem}", 300)[moment] for stem in STEMS]
        np.testing.assert_array_equal(batch.pcm[row], stems)


def test_remix_is_the_share_of_examples_that_are_mixed_across_songs(songs, data):
    half = examples(songs, replace(data, parts=FOUR, remix=0.3))
    aligned = [len({(chunk.song.name, chunk.start) for (chunk,) in half.draw(index)}) == 1 for index in range(2000)]
    assert abs(np.mean(aligned) - 0.7) < 0.05


@pytest.mark.parametrize("remix", [0.0, 1.0])
def test_chunks_that_are_added_up_are_of_different_songs(songs, data, remix):
    mixaudio = (Part("vocals", ("vocals",), 2), Part("accompaniment", ("bass+drums+other",), 2))
    two = replace(data, parts=mixaudio, remix=remix)
    draws = [examples(songs, two).draw(index) for index in range(2000)]
    assert all(first.song.name != second.song.name for draw in draws for first, second in draw)
    for part in (0, 1):
        assert is_even(Counter(tuple(chunk.song.name for chunk in draw[part]) for draw in draws), 20)
    if remix == 0:
        assert all(vocals.start == other.start for draw in draws for vocals, other in zip(*draw, strict=True))
    (batch,) = drawn(songs, two, 0, 1)
    assert batch.pcm.shape == (8, 2 + 6, SAMPLES, 2)
    assert batch.gain.all()


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.builds(
            lambda choices, count: (tuple("+".join(dict.fromkeys(choice)) for choice in choices), count),
            st.lists(st.lists(st.sampled_from(STEMS), min_size=1, max_size=4), min_size=1, max_size=3),
            st.integers(1, 5),
        ),
        min_size=1,
        max_size=3,
    ),
    remix=st.sampled_from([0.0, 0.5, 1.0]),
    index=st.integers(0, 10**15),
)
def test_any_recipe_draws_chunks_that_lie_within_their_songs(songs, data, parts, remix, index):
    recipe = tuple(Part(f"part {i}", choices, count) for i, (choices, count) in enumerate(parts))
    draw = examples(songs, replace(data, parts=recipe, remix=remix)).draw(index)
    assert [len(chunks) for chunks in draw] == [part.count for part in recipe]
    for chunks, part in zip(draw, recipe, strict=True):
        assert all("+".join(chunk.stems) in part.choices for chunk in chunks)
        assert len({chunk.song.name for chunk in chunks}) == part.count
        assert all(0 <= chunk.start <= 300 - SAMPLES for chunk in chunks)


def test_an_example_as_long_as_the_songs_starts_where_they_do(songs, data):
    (batch,) = drawn(songs, replace(data, seconds=0.3), 0, 1)
    assert batch.pcm.shape[2] == 300
    assert any(np.array_equal(batch.pcm[0, 0], noise(f"{name}/vocals", 300)) for name in "ABCDE")


def test_processes_that_cannot_share_a_batch_are_told_at_once(songs, data):
    with pytest.raises(InputError, match=r"batch \(=8\) must be divisible by the number of processes \(=3\)"):
        batches(songs, data, RATE, 2, 0, 0, 1, process=(0, 3))


@pytest.mark.parametrize("remix", [0.0, 1.0])
def test_too_few_songs_for_a_part_are_told_at_once(songs, data, remix):
    many = replace(data, parts=(Part("vocals", ("vocals",), 6),), remix=remix)
    with pytest.raises(InputError, match="5 songs have vocals, but part 'vocals' draws 6 at a time; add songs or low"):
        batches(songs, many, RATE, 2, 0, 0, 1)


def test_single_recordings_have_no_moment_in_common(songs, data):
    single = [Song(f"{song.name}/{stem}", {stem: song.clips[stem]}) for song in songs for stem in STEMS]
    assert len(drawn(single, replace(data, parts=FOUR))) == 4
    with pytest.raises(
        InputError, match=r"0 songs have vocals\+bass\+drums\+other, but part 'vocals' draws 1 at a tim"
    ):
        batches(single, replace(data, parts=FOUR, remix=0.9), RATE, 2, 0, 0, 1)


def test_a_file_that_cannot_be_read_ends_the_batches_with_its_name(tmp_path):
    write_songs(tmp_path / "train", "A", ("vocals",))
    samples = np.full((500, 2), np.nan, np.float32)
    soundfile.write(tmp_path / "train" / "A" / "vocals.wav", samples, RATE, subtype="FLOAT")
    data = Data(root=str(tmp_path), seconds=0.1, batch=2, parts=(Part("vocals", ("vocals",)),))
    before = threading.active_count()
    with pytest.raises(InputError, match=r"vocals.wav' holds NaN or infinite samples"):
        drawn(training_songs(data, NETWORK), data)
    assert threading.active_count() == before


def test_closing_the_iterator_ends_its_threads(songs, data):
    before = threading.active_count()
    endless = batches(songs, data, RATE, 2, 0, 0, 10**9)
    assert len(list(islice(endless, 3))) == 3
    assert threading.active_count() > before
    endless.close()
    assert threading.active_count() == before
