from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxmss.data import synth
from jaxmss.data.synth.mix import SPLITS, render, score_of
from jaxmss.data.tracks import MIXTURE, STEMS, find_tracks
from jaxmss.errors import InputError
from jaxmss.evaluation import median_over_frames
from jaxmss.evaluation.scores import frame_sdr

RATE = 44100
SECONDS = 3.0
FILES = {f"{stem}.wav" for stem in (MIXTURE, *STEMS)}
WRITE_TWO = """
import sys
from jaxmss.data import synth
synth.write(sys.argv[1], 2, 3.0, progress=lambda done, total: print(done, total, flush=True), processes=1)
"""


def small(directory: Path, **changes) -> Path:
    return synth.write(directory, **{"songs": 1, "seconds": SECONDS, "processes": 1, **changes})


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("synth") / "set")


@pytest.fixture(scope="module")
def songs() -> list[dict[str, np.ndarray]]:
    return [render(7, *song, 5.0) for song in (("train", 0), ("train", 1), ("valid", 0), ("test", 0))]


def test_the_layout_is_that_of_musdb18_hq(made):
    assert sorted(path.name for path in made.iterdir()) == ["synth.json", "test", "train", "valid"]
    for split in SPLITS:
        (track,) = find_tracks(made, split)
        assert track.name == f"{split} song 001"
        assert {path.name for path in track.path.iterdir()} == FILES
        for path in track.path.iterdir():
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (RATE, 2, "PCM_16")
            assert info.frames == SECONDS * RATE


def test_the_files_hold_what_was_rendered(made):
    stems = render(0, "test", 0, SECONDS)
    for name, expected in stems.items():
        found, _ = soundfile.read(made / "test" / "test song 001" / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(found, expected)


def test_a_split_has_a_share_of_the_songs(tmp_path):
    seen = []

    def stop_at_once(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, songs=24, progress=stop_at_once)
    assert seen == [(0, 24 + 4 + 6)]


def test_the_mixture_is_the_exact_sum_of_the_stems(songs):
    for song in songs:
        total = sum(song[stem].astype(np.int64) for stem in STEMS)
        np.testing.assert_array_equal(song[MIXTURE], total)


def test_nothing_is_clipped_and_the_mixture_peaks_1_db_below_full_scale(songs):
    for song in songs:
        assert max(np.abs(song[stem].astype(int)).max() for stem in STEMS) < 32767
        assert 20 * np.log10(np.abs(song[MIXTURE].astype(int)).max() / 32768) == pytest.approx(-1, abs=0.01)


def test_no_stem_falls_silent_for_a_second_and_all_are_stereo(songs):
    for song in songs:
        for stem in STEMS:
            assert song[stem].reshape(5, -1).any(axis=1).all()
            assert (song[stem][:, 0] != song[stem][:, 1]).any()


def test_vocals_lie_below_the_accompaniment_as_in_real_music(songs):
    for song in songs:
        vocals, mixture = (song[name].T.astype(np.float32) for name in ("vocals", MIXTURE))
        assert -8 < median_over_frames(frame_sdr(vocals, mixture, RATE)) < -3


def test_vocals_share_their_band_and_their_place_with_the_other_instruments(songs):
    for song in songs:
        spectra = {stem: np.abs(np.fft.rfft(song[stem].mean(axis=1))) ** 2 for stem in STEMS}
        frequencies = np.fft.rfftfreq(len(song[MIXTURE]), 1 / RATE)
        voiced = (frequencies > 200) & (frequencies < 4000)
        energy = {stem: spectrum[voiced].sum() for stem, spectrum in spectra.items()}
        assert 0.1 < energy["vocals"] / (energy["other"] + energy["drums"] + energy["bass"]) < 10
        left, right = np.square(song["vocals"].astype(float)).sum(axis=0)
        assert abs(10 * np.log10(left / right)) < 3


def test_songs_differ_in_tempo_and_are_in_all_keys_and_scales():
    scores = [score_of(0, split, index, 10.0) for split in SPLITS for index in range(20)]
    tempos = sorted(score.tempo for score in scores)
    assert min(np.diff(tempos)) > 0.1
    assert max(tempos) > 2 * min(tempos)
    assert len({score.key for score in scores}) == 12
    assert len({score.scale for score in scores}) == 4


def test_songs_of_two_seeds_differ():
    assert not np.array_equal(render(0, "train", 0, SECONDS)[MIXTURE], render(1, "train", 0, SECONDS)[MIXTURE])


def test_two_processes_write_the_same_bytes_as_one(made, tmp_path):
    small(tmp_path / "again", processes=2)
    assert contents(tmp_path / "again") == contents(made)


def test_a_complete_data_set_is_left_alone(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert small(made, progress=lambda *_: pytest.fail("it was made again")) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"seed": 3}, "seed 0, not 3"), ({"songs": 2}, "songs 1, not 2"), ({"seconds": 4.0}, "seconds 3.0, not 4.0")],
)
def test_another_data_set_is_refused(made, changes, told):
    with pytest.raises(InputError, match=told):
        small(made, **changes)


def test_a_data_set_that_lost_a_track_is_refused(tmp_path):
    description = {"seed": 0, "songs": 1, "seconds": SECONDS, "version": 1}
    (tmp_path / "synth.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"lacks its track 'train song 001'"):
        small(tmp_path)


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}"])
def test_a_description_that_cannot_be_read_is_refused(tmp_path, damaged):
    (tmp_path / "synth.json").write_text(damaged)
    with pytest.raises(InputError, match="seed None, not 0"):
        small(tmp_path)


@pytest.mark.parametrize("name", ["train", "notes.txt"])
def test_a_directory_that_holds_something_else_is_refused_and_kept(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"holds '{name}' already"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "set").touch()
    with pytest.raises(InputError, match="is a file; name a directory"):
        small(tmp_path / "set")


def test_a_directory_within_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        small(tmp_path / "file" / "set")


@pytest.mark.parametrize(
    "changes", [{"songs": 0}, {"seconds": 2.9}, {"seconds": float("nan")}, {"seed": -1}, {"processes": 0}]
)
def test_arguments_out_of_range_are_refused(tmp_path, changes):
    with pytest.raises(InputError, match=rf"{next(iter(changes))} is .*; it must be"):
        small(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


def interrupt_after(songs: int):
    def progress(done: int, total: int) -> None:
        if done == songs:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_shows_nothing_and_is_gone_on_with(made, tmp_path, processes):
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, progress=interrupt_after(1), processes=processes)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    seen = []
    small(tmp_path, progress=lambda *count: seen.append(count))
    assert seen[0][0] >= 1
    assert seen[-1] == (3, 3)
    assert contents(tmp_path) == contents(made)


def test_a_run_interrupted_while_the_splits_are_moved_is_finished(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, progress=interrupt_after(3))
    (tmp_path / ".unfinished" / "train").rename(tmp_path / "train")
    small(tmp_path)
    assert contents(tmp_path) == contents(made)


def test_what_was_begun_with_other_arguments_is_dropped(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, seed=1, progress=interrupt_after(1))
    small(tmp_path)
    assert contents(tmp_path) == contents(made)


def test_a_killed_run_is_gone_on_with_and_more_songs_leave_the_first_ones_as_they_are(made, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITE_TWO, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while process.stdout.readline().split() != ["1", "4"]:
        assert process.poll() is None
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (tmp_path / ".unfinished" / "train" / ".half").mkdir()  # what it may leave
    small(tmp_path, songs=2)
    found = contents(tmp_path)
    assert len(found) == 1 + 4 * len(FILES)
    assert {name: found[name] for name in contents(made) if name != "synth.json"}.items() <= contents(made).items()


def test_two_processes_that_write_the_same_at_once_both_have_it(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITE_TWO, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(told) == ["", "0 4\n1 4\n2 4\n3 4\n4 4\n"]  # one made all, the other waited
    assert len(contents(tmp_path)) == 1 + 4 * len(FILES)


def test_a_full_disk_is_told_of_and_nothing_half_written_stays(made, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"song 001' cannot be written: .*; free some space"):
            small(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(contents(tmp_path)) == [".unfinished/synth.json"]
    small(tmp_path)
    assert contents(tmp_path) == contents(made)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="choose a directory that you may write to"):
        small(tmp_path / "set")
