from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxmss.data import STEMS
from jaxmss.data.build import build
from jaxmss.data.check import BLOCK, absent, check, find
from jaxmss.data.prepared import directory
from jaxmss.data.splits import validation_names
from jaxmss.demo.recording import recording_path
from jaxmss.errors import InputError

RATE = 44100
SAMPLES = BLOCK + RATE  # more than is read at a time


def stems(seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).integers(-4000, 4000, (4, SAMPLES, 2)).astype(np.int16)
    return {**dict(zip(STEMS, drawn, strict=True)), "mixture": drawn.sum(axis=0, dtype=np.int16)}


def write(folder: Path, seed: int = 0, **changed: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for stem, samples in {**stems(seed), **changed}.items():
        subtype = "PCM_16" if samples.dtype == np.int16 else "FLOAT"
        soundfile.write(folder / f"{stem}.wav", samples, RATE, subtype=subtype)
    return folder


@pytest.fixture
def told(tmp_path) -> Callable[..., list[str]]:
    """Check what the test has written; return its lines."""

    def told(*splits: str) -> list[str]:
        reports = check(find(tmp_path, splits))
        return [f"{report.where}: {problem}" for report in reports for problem in report.problems]

    return told


def test_a_sound_data_set_has_no_problems_and_its_length_is_told(tmp_path):
    write(tmp_path / "train/A", 0)
    write(tmp_path / "train/B", 1)
    write(tmp_path / "test/C", 2)
    reports = list(check(find(tmp_path)))
    assert [report.where for report in reports] == ["train/A", "train/B", "test/C"]
    assert not any(report.problems for report in reports)
    assert [(report.tracks, report.seconds) for report in reports] == [(1, SAMPLES / RATE)] * 3


def test_a_track_that_ends_where_a_block_does_has_no_problems(tmp_path):
    write(tmp_path / "test/A", **{stem: samples[:BLOCK] for stem, samples in stems(0).items()})
    [report] = check(find(tmp_path, ["test"]))
    assert not report.problems
    assert report.seconds == BLOCK / RATE


def test_recordings_in_folders_of_their_stems_are_tracks_of_one_stem(tmp_path):
    for split, seed in (("train", 0), ("valid", 2)):
        for stem, count in (("target", 1), ("residual", 2)):
            (tmp_path / split / stem).mkdir(parents=True)
            for number in range(count):
                samples = stems(seed + number)["vocals" if stem == "target" else "other"]
                soundfile.write(tmp_path / split / stem / f"{number}.wav", samples, RATE, subtype="PCM_16")
    (tmp_path / "valid/target/0.wav").write_bytes(b"RIFF")
    reports = list(check(find(tmp_path, folders=("target", "residual"))))
    assert [report.where for report in reports if not report.problems] == [
        "train/target/0",
        "train/residual/0",
        "train/residual/1",
        "valid/residual/0",
        "valid/residual/1",
    ]
    [bad] = [report for report in reports if report.problems]
    assert bad.where == "valid/target/0"
    with pytest.raises(InputError, match=r"There is no directory '.*train/noise'; put the recordings"):
        find(tmp_path, folders=("noise",))


def test_only_the_splits_asked_for_are_read(tmp_path, told):
    write(tmp_path / "train/A")
    (write(tmp_path / "test/B", 1) / "vocals.wav").unlink()
    assert told("train") == []
    assert len(told()) == 1


def test_a_missing_stem_is_told_of_the_only_track(tmp_path, told):
    (write(tmp_path / "train/A") / "vocals.wav").unlink()
    assert told() == ["train/A: error: lacks vocals: it holds bass, drums, mixture, other; complete it or leave it out"]


def test_a_track_to_train_on_is_told_if_it_is_shorter_than_an_example(tmp_path, told):
    for split, seed in (("train", 0), ("test", 1)):
        write(tmp_path / split / f"{seed}", seed, **{stem: part[:RATE] for stem, part in stems(seed).items()})
    assert told() == [
        "train/0: warning: lasts 1.00 s, an example 3 s; leave it out, or train with a lower --data.seconds"
    ]


def test_folders_that_are_stems_are_told_how_to_be_named(tmp_path, told):
    for stem in ("target", "residual"):
        (tmp_path / "train" / stem).mkdir(parents=True)
        for number in range(7):
            soundfile.write(tmp_path / f"train/{stem}/{stem}{number}.wav", stems(number)["vocals"], RATE)
    line = next(line for line in told() if line.startswith("train/residual: error: lacks "))
    assert line == (
        "train/residual: error: lacks target0, target1, target2, target3, target4, ...: it holds residual0, residual1, "
        "residual2, residual3, residual4, ...; complete it or leave it out, or name the folders by --folders if they "
        "are stems, each full of recordings"
    )


def test_a_mixture_is_missed_but_training_adds_the_stems_up(tmp_path, told):
    write(tmp_path / "train/A")
    (write(tmp_path / "train/B", 1) / "mixture.wav").unlink()
    assert told() == [
        "train/B: warning: lacks mixture: it holds bass, drums, other, vocals; complete it or leave it out"
    ]


def test_a_split_that_training_would_look_for_is_missed(tmp_path):
    def missed() -> list[str]:
        return [f"{report.where}: {problem}" for report in absent(find(tmp_path)) for problem in report.problems]

    write(tmp_path / "test/A")
    assert missed() == ["train: warning: there is no such split; nothing can be trained"]
    write(tmp_path / "train/B", 1)
    [line] = missed()
    assert line.startswith(
        "valid: warning: there is no such split, nor are MUSDB18's validation tracks in train; add it"
    )
    write(tmp_path / "train" / min(validation_names()), 2)
    assert missed() == []


def test_a_stem_of_any_name_is_missing_where_other_tracks_have_it(tmp_path, told):
    half = {stem: samples // 2 for stem, samples in stems(1).items() if stem in ("other", "vocals")}
    write(tmp_path / "train/A")
    write(tmp_path / "train/B", 1, strings=stems(1)["other"] - half["other"], other=half["other"])
    (line,) = told()
    assert line.startswith("train/A: error: lacks strings")


def test_a_folder_without_stems_and_a_split_without_tracks_are_errors(tmp_path, told):
    write(tmp_path / "train/A")
    (tmp_path / "train/B").mkdir()
    (tmp_path / "test").mkdir()
    first, second = told()
    assert first.startswith("train/B: error: lacks bass, drums, mixture, other, vocals: it holds no .wav files")
    assert second.startswith("test: error: holds no tracks")


def test_stems_of_another_length_rate_or_number_of_channels_do_not_fit(tmp_path, told):
    folder = write(tmp_path / "train/A", bass=stems(0)["bass"][:-1], drums=stems(0)["drums"][:, :1])
    soundfile.write(folder / "vocals.wav", stems(0)["vocals"], 48000)
    lines = told()
    for stem, form in (("drums", (1, SAMPLES, RATE)), ("vocals", (2, SAMPLES, 48000)), ("mixture", (2, SAMPLES, RATE))):
        described = "{} channels of {} samples at {} Hz".format(*form)
        assert any(f"error: {stem} has {described}, bass has 2 channels of {SAMPLES - 1}" in line for line in lines)
    assert any("error: vocals: 48000 Hz; resample to 44100 Hz" in line for line in lines)
    assert any("error: drums: mono; convert to 2 channels" in line for line in lines)


def test_a_rate_that_all_stems_share_is_told_once(tmp_path, told):
    folder = write(tmp_path / "train/A")
    for file in folder.iterdir():
        soundfile.write(file, soundfile.read(file, dtype="int16")[0], 48000)
    assert told() == ["train/A: error: bass, drums, mixture, other, vocals: 48000 Hz; resample to 44100 Hz"]


def test_a_truncated_file_is_an_error_and_the_other_stems_are_still_listened_to(tmp_path, told):
    folder = write(tmp_path / "train/A", vocals=np.zeros((SAMPLES, 2), np.int16))
    file = folder / "bass.wav"
    file.write_bytes(file.read_bytes()[:-1000])
    truncated, silent = told()
    assert truncated.startswith("train/A: error:")
    assert "bass.wav" in truncated
    assert "1000 bytes are missing" in truncated
    assert silent == "train/A: warning: vocals is silent"


def test_the_first_sample_that_is_not_finite_is_told(tmp_path, told):
    bad = stems(0)["bass"].astype(np.float32) / 32768
    bad[2 * RATE + 441, 1] = np.nan
    write(tmp_path / "train/A", bass=bad)
    (line,) = told()
    assert "error:" in line
    assert "bass.wav' holds NaN or infinite samples, the first at 2.010 s" in line


@pytest.mark.parametrize("at", [1000, BLOCK - 2, BLOCK - 1, BLOCK, SAMPLES - 3])
def test_runs_at_full_scale_are_counted_once_wherever_blocks_meet(tmp_path, told, at):
    loud = stems(0)["bass"]
    loud[at : at + 3, 0] = 32767
    loud[at - 500 : at - 490, 1] = -32768  # the first of the two
    loud[at - 600 : at - 598] = 32767  # too short for a run
    loud[at - 700 : at - 698, 1] = 32767
    rest = {stem: samples for stem, samples in stems(0).items() if stem not in ("bass", "mixture")}
    write(tmp_path / "train/A", bass=loud, mixture=loud + sum(samples // 8 for samples in rest.values()))
    (line,) = [line for line in told() if "bass is clipped" in line]
    assert line.startswith("train/A: warning: bass is clipped 2 times")
    assert line.endswith(f"the first at {(at - 500) / RATE:.3f} s")


def test_a_stem_of_dither_alone_is_silent(tmp_path, told):
    dither = np.random.default_rng(0).integers(-1, 2, (SAMPLES, 2)).astype(np.int16)
    changed = {"vocals": dither, "mixture": stems(0)["mixture"] - stems(0)["vocals"] + dither}
    write(tmp_path / "train/A", **changed)
    assert told() == ["train/A: warning: vocals is silent"]


def test_a_mixture_may_differ_from_the_sum_by_rounding_alone(tmp_path, told):
    rounding = np.random.default_rng(0).integers(-2, 3, (SAMPLES, 2)).astype(np.int16)
    write(tmp_path / "train/A", mixture=stems(0)["mixture"] + rounding)
    assert told() == []


def test_it_is_told_by_how_much_a_mixture_differs_from_the_sum(tmp_path, told):
    mixture = stems(0)["mixture"]
    off = mixture.astype(np.int16)
    off[BLOCK + 100] += 3000
    write(tmp_path / "train/A", mixture=off)
    (line,) = told()
    sdr = 10 * np.log10(np.sum(off.astype(np.float64) ** 2) / (2 * 3000.0**2))
    second = (BLOCK + 100) / RATE
    assert line == (
        f"train/A: warning: mixture is not the sum of the stems: SDR {sdr:.1f} dB, "
        f"off by up to {3000 / 32768:.4f} of full scale at {second:.3f} s"
    )


def test_the_same_audio_in_two_splits_is_an_error_under_whatever_names(tmp_path, told):
    write(tmp_path / "train/A")
    write(tmp_path / "test/B")
    (line,) = told()
    assert line.startswith("test/B: error: the same audio as in train/A: bass, drums, mixture, other, vocals")


def test_one_stem_that_leaks_is_enough_and_one_in_other_files_is_found(tmp_path, told):
    write(tmp_path / "train/A")
    leaked = stems(0)["vocals"].astype(np.float32) / 32768
    folder = write(tmp_path / "test/B", 1, other=leaked)
    (folder / "mixture.wav").unlink()
    lines = told()
    assert any(line.startswith("test/B: error: the same audio as in train/A: vocals as other") for line in lines)


def test_the_same_audio_twice_in_a_split_or_in_a_track_is_a_warning(tmp_path, told):
    write(tmp_path / "train/A")
    shutil.copytree(tmp_path / "train/A", tmp_path / "train/B")
    shutil.copy(tmp_path / "train/A/bass.wav", tmp_path / "train/A/drums.wav")
    shutil.copy(tmp_path / "train/A/bass.wav", tmp_path / "train/B/drums.wav")
    lines = [line for line in told() if "not the sum" not in line]
    assert len(lines) == 2
    assert "train/A: warning: the same audio is there twice: bass as drums" in lines
    assert any(line.startswith("train/B: warning: the same audio as in train/A: bass") for line in lines)


def test_silence_is_no_leak(tmp_path, told):
    silence = np.zeros((SAMPLES, 2), np.int16)
    for split, name, seed in (("train", "A", 0), ("test", "B", 1)):
        write(tmp_path / split / name, seed, bass=silence, mixture=stems(seed)["mixture"] - stems(seed)["bass"])
    assert told() == ["train/A: warning: bass is silent", "test/B: warning: bass is silent"]


def test_one_name_in_two_splits_is_a_warning_in_any_case_of_letters(tmp_path, told):
    write(tmp_path / "train/Some Song")
    write(tmp_path / "test/some song", 1)
    (line,) = told()
    assert line.startswith("test/some song: warning: the same name as train/Some Song, but other audio")


def test_stem_files_are_listened_to(tmp_path, told):
    (tmp_path / "train").mkdir()
    shutil.copy(recording_path(), tmp_path / "train/Song.stem.mp4")
    (line,) = told()  # this song was mastered, those of MUSDB18 were not
    assert re.fullmatch(r"train/Song: warning: mixture is not the sum of the stems: SDR 15\.4 dB, .*", line)
    content = recording_path().read_bytes()
    (tmp_path / "train/Song.stem.mp4").write_bytes(content[: len(content) // 2])
    (line,) = told()
    assert "error:" in line
    assert "is cut short" in line


def test_a_prepared_data_set_is_listened_to(tmp_path, told):
    write(tmp_path / "source/train/A", vocals=np.zeros((SAMPLES, 2), np.int16), mixture=stems(1)["mixture"])
    build(tmp_path / "source", tmp_path)
    silent, mixture = told()
    assert silent == "train/A: warning: vocals is silent"
    assert mixture.startswith("train/A: warning: mixture is not the sum of the stems: SDR")
    (shard,) = directory(tmp_path).glob("*-train*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    shard.write_bytes(content)
    assert any("error:" in line and "cannot be read at" in line for line in told())


@pytest.mark.parametrize(
    ("root", "splits", "message"),
    [
        ("missing", (), "There is no directory '.*missing'"),
        ("", ("valid",), "holds no split 'valid': it holds train"),
        ("train", (), "holds none of the splits train, valid, test: it holds A"),
    ],
)
def test_a_place_that_holds_no_data_is_refused(tmp_path, root, splits, message):
    write(tmp_path / "train/A")
    with pytest.raises(InputError, match=message):
        find(tmp_path / root, splits)
