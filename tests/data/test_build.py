from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from recordings import RATE, noise, write_songs

from jaxmss.data import build as building
from jaxmss.data import check, prepared
from jaxmss.data.build import build
from jaxmss.data.songs import training_songs, validation_tracks
from jaxmss.data.splits import validation_names
from jaxmss.data.tracks import ACCOMPANIMENT, MIXTURE, STEMS, find_tracks
from jaxmss.demo.recording import recording_path
from jaxmss.errors import InputError
from jaxmss.models import architecture
from jaxmss.training.config import Data

SAMPLES = 3 * RATE + 123  # three records and a part of one
HELD_OUT = "Traffic Experiment - Sirens"


@pytest.fixture
def source(tmp_path) -> Path:
    """Three songs to train on and one to test with."""
    write_songs(tmp_path / "source/train", ("A", "B é", "C"), samples=SAMPLES)
    write_songs(tmp_path / "source/test", ("D",), samples=SAMPLES)
    return tmp_path / "source"


def test_every_sample_is_read_back_from_any_place(source, tmp_path):
    build(source, tmp_path / "out")
    songs = prepared.songs(tmp_path / "out", "train")
    assert [song.name for song in songs] == ["A", "B é", "C"]
    for song in songs:
        for stem, clip in song.clips.items():
            expected = noise(f"{song.name}/{stem}", SAMPLES)
            assert (clip.rate, clip.channels, clip.samples) == (RATE, 2, SAMPLES)
            for start, stop in (
                (0, SAMPLES),
                (0, 0),
                (RATE, RATE),
                (RATE - 1, RATE + 1),
                (7, 2 * RATE),
                (SAMPLES - 1, SAMPLES),
            ):
                np.testing.assert_array_equal(clip.read(start, stop - start), expected[start:stop])


def test_clips_are_read_by_many_threads_at_once(source, tmp_path):
    build(source, tmp_path / "out")
    clip = prepared.songs(tmp_path / "out", "train")[1].clips["bass"]
    starts = np.random.default_rng(0).integers(0, SAMPLES - 500, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda start: clip.read(start, 500), starts))
    expected = noise("B é/bass", SAMPLES)
    for start, pcm in zip(starts, read, strict=True):
        np.testing.assert_array_equal(pcm, expected[start : start + 500])


def test_songs_lie_in_their_order_in_as_many_shards_as_it_takes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_BYTES", 3 * SAMPLES * 4)
    build(source, tmp_path / "out")
    assert len(list(prepared.directory(tmp_path / "out").glob("*-train*"))) == 4  # twelve stems
    song = prepared.songs(tmp_path / "out", "train")[-1]
    np.testing.assert_array_equal(song.clips["vocals"].read(0, SAMPLES), noise("C/vocals", SAMPLES))


def test_tensorflow_datasets_reads_what_was_built(source, tmp_path):
    directory = build(source, tmp_path / "out")
    builder = tfds.builder_from_directory(directory)
    assert builder.info.name == "musdb18_hq"
    assert set(builder.info.splits) == {"train", "test"}
    record = builder.as_data_source("test")[1]
    assert (record["track"], record["stem"], record["start"]) == (b"D", b"bass", RATE)
    np.testing.assert_array_equal(record["pcm"], noise("D/bass", SAMPLES)[RATE : 2 * RATE])
    assert "tensorflow" not in sys.modules


def test_official_validation_tracks_are_a_split_of_their_own_where_there_is_no_folder_of_them(source, tmp_path):
    write_songs(source / "train", (HELD_OUT,), samples=SAMPLES)
    assert HELD_OUT in validation_names()
    build(source, tmp_path / "out")
    assert prepared.splits(tmp_path / "out") == ["train", "valid", "test"]
    assert [song.name for song in prepared.songs(tmp_path / "out", "valid")] == [HELD_OUT]
    write_songs(source / "valid", ("E",), samples=SAMPLES)
    build(source, tmp_path / "out2")
    assert [song.name for song in prepared.songs(tmp_path / "out2", "valid")] == ["E"]
    assert HELD_OUT in [song.name for song in prepared.songs(tmp_path / "out2", "train")]


def test_training_and_validation_take_a_prepared_data_set(source, tmp_path):
    write_songs(source / "valid", ("E",), samples=SAMPLES)
    build(source, tmp_path / "out")
    config = replace(architecture("cws-vocals"), sample_rate=RATE)
    data = Data(root=str(tmp_path / "out"), seconds=0.1)
    songs = training_songs(data, config)
    assert [song.name for song in songs] == ["A", "B é", "C"]
    np.testing.assert_array_equal(songs[2].clips["other"].read(900, 300), noise("C/other", SAMPLES)[900:1200])
    (track,) = validation_tracks(data)
    assert track.name == "E"


def test_tracks_read_in_another_process_what_the_files_hold(source, tmp_path):
    build(source, tmp_path / "out")
    (original,) = find_tracks(source, "test")
    (stored,) = pickle.loads(pickle.dumps(find_tracks(tmp_path / "out", "test")))
    read, rate = stored.read([*STEMS, ACCOMPANIMENT, MIXTURE])
    expected, _ = original.read([*STEMS, ACCOMPANIMENT])
    assert rate == RATE
    for stem, waveform in expected.items():
        assert read[stem].dtype == np.float32
        np.testing.assert_array_equal(read[stem], waveform)
    np.testing.assert_allclose(read[MIXTURE], sum(expected[stem] for stem in STEMS), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="has no stem 'vocal'; did you mean 'vocals'"):
        stored.read(["vocal"])


def test_a_mixture_that_was_stored_is_read_not_summed(source, tmp_path):
    soundfile.write(source / "test/D/mixture.wav", noise("D/mixture", SAMPLES), RATE)
    build(source, tmp_path / "out")
    (track,) = find_tracks(tmp_path / "out", "test")
    np.testing.assert_array_equal(track.read([MIXTURE])[0][MIXTURE] * 32768, noise("D/mixture", SAMPLES).T)


def test_stem_files_are_prepared_with_their_five_streams(tmp_path):
    (tmp_path / "source/train").mkdir(parents=True)
    shutil.copy(recording_path(), tmp_path / "source/train/Song.stem.mp4")
    build(tmp_path / "source", tmp_path / "out")
    (track,), (original,) = find_tracks(tmp_path / "out", "train"), find_tracks(tmp_path / "source", "train")
    read, expected = track.read([*STEMS, MIXTURE])[0], original.read([*STEMS, MIXTURE])[0]
    for stem in (*STEMS, MIXTURE):
        np.testing.assert_allclose(read[stem], np.clip(expected[stem], -1, 1), rtol=0, atol=1 / 32768)


def test_eval_scores_estimates_on_a_prepared_data_set_as_on_its_files(source, tmp_path):
    soundfile.write(source / "test/D/mixture.wav", noise("D/mixture", SAMPLES), RATE)
    build(source, tmp_path / "out")
    estimates = tmp_path / "estimates/D"
    estimates.mkdir(parents=True)
    for stem in ("vocals", "bass"):
        soundfile.write(estimates / f"{stem}.wav", noise(f"D/{stem}", SAMPLES) // 2, RATE)
    scores = []
    for root in (source, tmp_path / "out"):
        output = tmp_path / f"scores of {root.name}"
        command = [sys.executable, "eval.py", "--data.root", root, "--data.split", "test"]
        command += ["--estimates", estimates.parent, "--output", output, "--workers", "1"]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads((output / "tracks/D.json").read_text())["targets"])
    assert scores[0] == scores[1]


def test_progress_ends_at_the_length_of_all_stems(source, tmp_path):
    told = []
    build(source, tmp_path / "out", report=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (4 * 4 * SAMPLES / RATE,) * 2


def test_a_data_set_that_is_there_is_not_replaced(source, tmp_path):
    build(source, tmp_path / "out")
    with pytest.raises(InputError, match="holds a prepared data set; remove it or choose another destination"):
        build(source, tmp_path / "out")


def test_of_two_builds_at_once_the_second_waits_and_finds_the_first_ones(tmp_path):
    write_songs(tmp_path / "source/train", ("A", "B"), samples=600 * RATE)
    command = [sys.executable, "-m", "jaxmss.cli", "data", "build", tmp_path / "source", tmp_path / "out"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = {process.communicate()[1] or "none": process.returncode for process in both}
    assert told.pop("none") == 0
    [(refusal, status)] = told.items()
    assert status == 2
    assert refusal.endswith("holds a prepared data set; remove it or choose another destination\n")
    assert os.listdir(tmp_path / "out/musdb18_hq") == [prepared.VERSION]


def test_a_killed_build_leaves_no_data_set_and_the_next_one_removes_its_rest(tmp_path):
    write_songs(tmp_path / "source/train", ("A", "B"), samples=600 * RATE)
    script = (
        "import os, signal, sys; from pathlib import Path; from jaxmss.data.build import build\n"
        "kill = lambda done, total: done > total / 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "build(Path(sys.argv[1]), sys.argv[2], report=kill)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "source", tmp_path / "out"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path / "out/musdb18_hq") != []
    assert not prepared.is_prepared(tmp_path / "out")
    build(tmp_path / "source", tmp_path / "out")
    assert os.listdir(tmp_path / "out/musdb18_hq") == [prepared.VERSION]
    assert os.listdir(tmp_path / "out") == ["musdb18_hq"]


def test_an_error_while_building_leaves_nothing(source, tmp_path):
    bad = noise("bad", SAMPLES).astype(np.float32) / 32768
    bad[-1] = np.nan
    soundfile.write(source / "train/C/vocals.wav", bad, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match=r"vocals.wav' holds NaN or infinite samples"):
        build(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out/musdb18_hq") == []


def test_a_disk_that_takes_no_more_is_told_of_in_one_line_and_nothing_is_left(source, tmp_path):
    script = (
        "import resource, sys; from jaxmss import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "cli.main(['data', 'build', *sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, source, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"jaxmss: '{tmp_path / 'out'}' cannot be written: ")
    assert done.stderr.endswith("free some space or choose another directory\n")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path / "out/musdb18_hq") == []


def test_a_source_that_changes_meanwhile_is_found_by_reading_back(source, tmp_path):
    def change(done: float, total: float) -> None:
        if done == total:
            soundfile.write(source / "train/A/vocals.wav", noise("other", SAMPLES), RATE)

    with pytest.raises(
        InputError, match="vocals of track 'A' does not read back as it was, and the data set was remov"
    ):
        build(source, tmp_path / "out", report=change)
    assert not prepared.is_prepared(tmp_path / "out")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_was_not_read_back_to_its_end_is_removed(source, tmp_path, monkeypatch, error):
    written = []

    def interrupted(songs, destination):
        written.append(prepared.is_prepared(destination))
        raise error

    monkeypatch.setattr(building, "verify", interrupted)
    with pytest.raises(error):
        build(source, tmp_path / "out")
    assert written == [True]
    assert not prepared.is_prepared(tmp_path / "out")


def test_a_name_that_is_no_text_is_refused(source, tmp_path):
    (source / "train/A").rename(source / "train" / os.fsdecode(b"Caf\xe9"))
    with pytest.raises(InputError, match=r"The name 'Caf\\udce9' of a track or stem is not UTF-8; rename"):
        build(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_songs_that_differ_are_refused_by_name(source, tmp_path):
    soundfile.write(source / "train/C/bass.wav", noise("C/bass", SAMPLES - 1), RATE)
    with pytest.raises(
        InputError, match=f"'C': drums has 2 channels of {SAMPLES} samples at {RATE} Hz, but 2 channels"
    ):
        build(source, tmp_path / "out")
    (source / "train/C/bass.wav").unlink()
    with pytest.raises(InputError, match="'A' and 'C' differ in their stems: only one of them has bass"):
        build(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_splits_that_differ_are_refused_by_name(source, tmp_path):
    for folder in (source / "train").iterdir():
        (folder / "bass.wav").unlink(missing_ok=True)
    with pytest.raises(InputError, match="differ in their stems: only one of them has bass"):
        build(source, tmp_path / "out")


def test_no_destination_is_refused(source):
    with pytest.raises(InputError, match="The destination is empty; name a folder"):
        build(source, "")


def test_the_odd_track_is_named_also_if_it_is_the_first(source, tmp_path):
    for stem in ("bass", "drums", "mixture", "other", "vocals"):
        file = source / f"train/A/{stem}.wav"
        if file.exists():
            soundfile.write(file, soundfile.read(file, dtype="int16")[0], 2 * RATE)
    with pytest.raises(InputError, match=f"'A': .* at {2 * RATE} Hz, but 2 channels of .* at {RATE} Hz are expected"):
        build(source, tmp_path / "out")
    (source / "train/0").mkdir()
    with pytest.raises(InputError, match=r"train/0' holds no \.wav files; complete the track or remove its folder"):
        build(source, tmp_path / "out")


def test_sources_without_data_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"There is no directory '.*nowhere'"):
        build(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="holds none of the folders train, valid, test"):
        build(tmp_path, tmp_path / "out")


def test_a_split_that_was_not_prepared_is_refused_by_name(source, tmp_path):
    build(source, tmp_path / "out")
    with pytest.raises(InputError, match="holds no split 'valid': it holds train, test"):
        find_tracks(tmp_path / "out", "valid")


def test_a_damaged_data_set_is_told_of_in_one_line(source, tmp_path):
    directory = build(source, tmp_path / "out")
    (shard,) = directory.glob("*-train*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read at 0 s .*; build the data set again"):
        prepared.songs(tmp_path / "out", "train")[0].clips["bass"].read(0, 10)
    (directory / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata\.json' cannot be read .*; build the data set again"):
        prepared.songs(tmp_path / "out", "train")


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("channels"),
        lambda told: told.update(rate="44100"),
        lambda told: told.update(tracks=["train"]),
        lambda told: told["tracks"]["train"][0].pop("samples"),
        lambda told: told["tracks"]["train"][0].update(samples=0),
        lambda told: told["tracks"]["train"][0].update(stems=[]),
        lambda told: told["tracks"]["train"][0].update(name=None),
    ],
)
def test_a_description_that_lacks_something_is_told_of_in_one_line(source, tmp_path, change):
    file = build(source, tmp_path / "out") / "metadata.json"
    change(told := json.loads(file.read_text()))
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"metadata\.json' cannot be read \(it does not tell .*\); build the data set"):
        prepared.songs(tmp_path / "out", "train")


def test_a_half_copied_data_set_is_told_by_the_file_before_it_is_read(source, tmp_path):
    directory = build(source, tmp_path / "out")
    data = Data(root=str(tmp_path / "out"), seconds=1.0)
    network = replace(architecture("cws-vocals"), sample_rate=RATE)
    assert len(training_songs(data, network)) == 3
    (shard,) = directory.glob("*-train*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1000])
    cut = rf"{re.escape(str(shard))}' cannot be read \(.*\); copy it, or build the data set, again"
    for look in (lambda: training_songs(data, network), lambda: check.find(tmp_path / "out")):
        with pytest.raises(InputError, match=cut):
            look()
    (other,) = directory.glob("*-test*")
    shard.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"holds 16 of 48 records; copy it, or build the data set, again"):
        training_songs(data, network)
    shard.unlink()
    with pytest.raises(InputError, match=r"-train.*' cannot be read \(.*No such file"):
        training_songs(data, network)


@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="Apache Beam is not installed")
def test_apache_beam_builds_the_same_data_set(source, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_BYTES", 3 * SAMPLES * 4)
    build(source, tmp_path / "out", beam=["--runner=DirectRunner"])
    assert len(list(prepared.directory(tmp_path / "out").glob("*-train*"))) == 4
    for split, names in (("train", ["A", "B é", "C"]), ("test", ["D"])):
        songs = prepared.songs(tmp_path / "out", split)
        assert [song.name for song in songs] == names
        for song in songs:
            for stem, clip in song.clips.items():
                np.testing.assert_array_equal(clip.read(0, SAMPLES), noise(f"{song.name}/{stem}", SAMPLES))


@pytest.mark.skipif(bool(importlib.util.find_spec("apache_beam")), reason="Apache Beam is installed")
def test_without_apache_beam_it_is_said_how_to_install_it(source, tmp_path):
    with pytest.raises(InputError, match=r"--beam needs Apache Beam; run `pip install jaxmss\[beam\]`"):
        build(source, tmp_path / "out", beam=[])
