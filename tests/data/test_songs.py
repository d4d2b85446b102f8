from __future__ import annotations

import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, STEMS, noise, write_songs

from jaxmss.checkpoints.download import cache_directory
from jaxmss.data import STEMS as MUSDB_STEMS
from jaxmss.data.songs import stems_of, training_songs, validation_tracks
from jaxmss.data.splits import validation_names
from jaxmss.demo.recording import recording_path
from jaxmss.errors import InputError
from jaxmss.models import architecture
from jaxmss.training.config import Data, Part

NETWORK = replace(architecture("cws-vocals"), sample_rate=RATE)
HELD_OUT = ("Actions - One Minute Smile", "Traffic Experiment - Sirens")


@pytest.fixture
def data(tmp_path) -> Data:
    """Two songs, 0.5 s each, of which 0.1 s are an example."""
    write_songs(tmp_path / "train", ("A", "B"))
    return Data(root=str(tmp_path), seconds=0.1)


def first_file(data: Data) -> Path:
    return Path(data.root, "train", "A", "vocals.wav")


def pools(tmp_path: Path) -> Data:
    for folder, names in (("target", ("x", "y")), ("residual", ("p", "q", "r"))):
        (tmp_path / "train" / folder).mkdir(parents=True)
        for name in names:
            soundfile.write(tmp_path / "train" / folder / f"{name}.wav", noise(name, 400 + len(folder)), RATE)
    parts = (Part("target", ("target",)), Part("residual", ("residual",)))
    return Data(root=str(tmp_path), seconds=0.1, folders=("target", "residual"), parts=parts)


def test_songs_are_read_sample_by_sample_from_their_files(data):
    first, second = training_songs(data, NETWORK)
    assert (first.name, second.name) == ("A", "B")
    assert set(first.clips) == set(STEMS)
    clip = second.clips["bass"]
    assert (clip.rate, clip.channels, clip.samples) == (RATE, 2, 500)
    np.testing.assert_array_equal(clip.read(123, 45), noise("B/bass", 500)[123:168])
    np.testing.assert_array_equal(clip.read(0, 500), noise("B/bass", 500))


def test_only_the_stems_that_the_parts_draw_are_needed_and_any_names_will_do(tmp_path):
    write_songs(tmp_path / "train", ("A",), ("voice", "guitar", "mixture"))
    parts = (Part("vocals", ("voice",)), Part("accompaniment", ("guitar",)))
    (song,) = training_songs(Data(root=str(tmp_path), seconds=0.1, parts=parts), NETWORK)
    assert set(song.clips) == {"voice", "guitar"}


def test_the_stems_of_parts_are_those_of_all_choices():
    assert stems_of((Part("a", ("x", "y+z")), Part("b", ("z", "w")))) == ("x", "y", "z", "w")


def with_other_chunks(samples: np.ndarray) -> bytes:
    """A WAV file with an extensible format and chunks of odd lengths before and after its samples."""
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 2, RATE, RATE * 4, 4, 16, 22, 16, 3) + guid
    chunks = b"junk" + struct.pack("<I", 3) + b"data" + b"fmt " + struct.pack("<I", len(form)) + form
    content = chunks + b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes() + b"LIST" + bytes(4)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WAVE" + content


def test_an_extensible_header_and_other_chunks_are_skipped(data):
    samples = noise("odd", 500)
    first_file(data).write_bytes(with_other_chunks(samples))
    clip = training_songs(data, NETWORK)[0].clips["vocals"]
    np.testing.assert_array_equal(clip.read(7, 400), samples[7:407])


@pytest.mark.parametrize("form", [("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "DOUBLE"), ("RF64", "PCM_16")])
def test_other_sample_formats_give_the_same_16_bits(data, form):
    samples = noise("other form", 500)
    soundfile.write(first_file(data), samples / 32768, RATE, format=form[0], subtype=form[1])
    clip = training_songs(data, NETWORK)[0].clips["vocals"]
    np.testing.assert_array_equal(clip.read(100, 300), samples[100:400])


def test_a_file_of_the_other_byte_order_gives_the_same_samples(data):
    samples = noise("RIFX", 500)
    soundfile.write(first_file(data), samples, RATE, subtype="PCM_16", endian="BIG")
    assert first_file(data).read_bytes()[:4] == b"RIFX"
    np.testing.assert_array_equal(training_songs(data, NETWORK)[0].clips["vocals"].read(3, 100), samples[3:103])


def test_float_samples_beyond_full_scale_are_clipped_not_wrapped(data):
    loud = np.tile(np.float32([[1.0, -1.0], [1.5, -7.0]]), (250, 1))
    soundfile.write(first_file(data), loud, RATE, subtype="FLOAT")
    read = training_songs(data, NETWORK)[0].clips["vocals"].read(0, 2)
    np.testing.assert_array_equal(read, [[32767, -32768], [32767, -32768]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_told_with_its_place(data, value):
    samples = np.zeros((500, 2), np.float32)
    samples[250, 1] = value
    soundfile.write(first_file(data), samples, RATE, subtype="FLOAT")
    clip = training_songs(data, NETWORK)[0].clips["vocals"]
    assert not clip.read(0, 250).any()
    with pytest.raises(InputError, match=r"vocals.wav' holds NaN or infinite samples, one at 0.250 s; export it again"):
        clip.read(200, 100)


def test_a_file_that_is_cut_or_vanishes_while_training_is_told(data):
    clip = training_songs(data, NETWORK)[0].clips["vocals"]
    os.truncate(first_file(data), 1000)
    with pytest.raises(InputError, match=r"vocals.wav' ends within its samples; copy or download it again"):
        clip.read(300, 100)
    first_file(data).unlink()
    with pytest.raises(InputError, match=r"vocals.wav' cannot be read: No such file or directory; check the disk"):
        clip.read(0, 100)


def damaged(change):
    return lambda data: first_file(data).write_bytes(change(first_file(data).read_bytes()))


def rewritten(samples: int = 500, rate: int = RATE, channels: int = 2):
    return lambda data: soundfile.write(first_file(data), np.zeros((samples, channels)), rate, subtype="PCM_16")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: shutil.rmtree(data.root), "There is no directory .*; name the folder that holds the splits"),
        (lambda data: shutil.rmtree(Path(data.root, "train")), "holds no split 'train': it holds no folders"),
        (
            lambda data: [shutil.rmtree(Path(data.root, "train", name)) for name in "AB"],
            "train' holds no tracks: neither folders with mixture.wav",
        ),
        (
            lambda data: first_file(data).unlink(),
            "Track 'A' lacks vocals.wav: .*A' holds bass.wav, drums.wav, other.wav; complete it, leave the",
        ),
        (
            lambda data: [file.unlink() for file in first_file(data).parent.iterdir()],
            "train/A' holds no .wav files; complete the track or remove its folder",
        ),
        (
            lambda data: [first_file(data).unlink(), first_file(data).symlink_to("gone.wav")],
            "Track 'A' lacks vocals.wav: .*A' holds bass.wav, drums.wav, other.wav; complete it, leave the",
        ),
        (rewritten(rate=48000), "Track 'A': vocals is at 48000 Hz, the network at 1000 Hz; resample the data"),
        (rewritten(channels=1), "Track 'A': vocals has 1 channels, the network 2; convert the data"),
        (rewritten(samples=499), "has 500 samples, vocals 499; stems of a track must be alike"),
        (damaged(lambda whole: whole[:-1000]), "vocals.wav' is cut short by 1000 bytes; copy or download it again"),
        (damaged(lambda whole: b"no sound" * 99), "vocals.wav' cannot be read as audio: .*; copy it again"),
        (damaged(lambda whole: b""), "vocals.wav' cannot be read as audio: .*; copy it again"),
    ],
)
def test_what_headers_tell_is_told_before_training_in_one_line(data, damage, message):
    damage(data)
    with pytest.raises(InputError, match=message) as error:
        training_songs(data, NETWORK)
    assert "\n" not in str(error.value)


def test_a_track_that_is_shorter_than_an_example_is_refused(data):
    with pytest.raises(InputError, match=r"has 500 samples, an example 501; leave it out or shorten --data.seconds"):
        training_songs(replace(data, seconds=0.501), NETWORK)


@pytest.mark.parametrize("read", [lambda data: training_songs(data, NETWORK), validation_tracks])
@pytest.mark.parametrize("field", ["split", "valid"])
@pytest.mark.parametrize("split", ["test", "Test", "./test/", "train/../test"])
def test_the_test_split_is_never_looked_at(data, read, field, split):
    write_songs(Path(data.root, "test"), ("T",))
    with pytest.raises(InputError, match="is for the final scores alone; train and validate on others"):
        read(replace(data, **{field: split}))


def test_the_data_has_to_be_named(data):
    with pytest.raises(InputError, match=r"set --data.root to a folder"):
        training_songs(replace(data, root=""), NETWORK)
    assert training_songs(replace(data, root=f"synth:{data.root}"), NETWORK) == training_songs(data, NETWORK)


def test_there_are_14_validation_tracks():
    assert len(validation_names()) == 14
    assert set(HELD_OUT) < validation_names()


def test_the_validation_tracks_of_musdb18_are_held_out(data):
    write_songs(Path(data.root, "train"), HELD_OUT, (*STEMS, "mixture"))
    assert [song.name for song in training_songs(data, NETWORK)] == ["A", "B"]
    assert [track.name for track in validation_tracks(data)] == list(HELD_OUT)


def test_a_validation_split_of_ones_own_goes_before_the_official_one(data):
    write_songs(Path(data.root, "train"), HELD_OUT)
    write_songs(Path(data.root, "valid"), ("V",))
    assert {song.name for song in training_songs(data, NETWORK)} == {"A", "B", *HELD_OUT}
    (track,) = validation_tracks(data)
    assert track.name == "V"
    read, rate = track.read(("mixture", "bass"))
    assert rate == RATE
    np.testing.assert_array_equal(read["bass"].T * 32768, noise("V/bass", 500))
    np.testing.assert_array_equal(read["mixture"].T * 32768, sum(noise(f"V/{s}", 500).astype(int) for s in STEMS))


def test_no_tracks_to_validate_on_are_told_with_what_to_do(data):
    with pytest.raises(InputError, match=r"holds no split 'valid', .*; add such a split, or train with --validation"):
        validation_tracks(data)


def test_no_tracks_to_train_on_but_held_out_ones_are_told(tmp_path):
    write_songs(tmp_path / "train", HELD_OUT)
    with pytest.raises(InputError, match="holds but validation tracks of MUSDB18 in 'train'; copy the others too"):
        training_songs(Data(root=str(tmp_path), seconds=0.1), NETWORK)


def test_recordings_of_one_stem_each_are_songs_of_their_own(tmp_path):
    data = pools(tmp_path)
    songs = training_songs(data, NETWORK)
    assert [song.name for song in songs] == ["target/x", "target/y", "residual/p", "residual/q", "residual/r"]
    assert [set(song.clips) for song in songs] == [{"target"}] * 2 + [{"residual"}] * 3
    np.testing.assert_array_equal(songs[1].clips["target"].read(5, 10), noise("y", 406)[5:15])


def test_validation_mixes_the_first_recordings_the_second_ones_and_so_on(tmp_path):
    first, second = validation_tracks(replace(pools(tmp_path), split="other", valid="train"))
    assert (first.name, second.name) == ("x", "y")
    read, rate = second.read(("target", "mixture"))
    assert rate == RATE
    np.testing.assert_array_equal(read["target"].T * 32768, noise("y", 406))
    mixed = noise("y", 406).astype(int) + noise("q", 408)[:406]
    np.testing.assert_array_equal(read["mixture"].T * 32768, mixed)


def test_mistakes_with_folders_of_recordings_are_told(tmp_path):
    data = pools(tmp_path)
    with pytest.raises(InputError, match="The parts draw 'targe', which is not among the folders; did you mean 'targ"):
        training_songs(replace(data, parts=(Part("target", ("targe",)),)), NETWORK)
    with pytest.raises(InputError, match=r"'remix' \(=0\.5\) cannot be used: it must be 1 with folders"):
        replace(data, remix=0.5)
    with pytest.raises(InputError, match=r"'choices' .* cannot be used: with folders, name single ones"):
        replace(data, parts=(Part("both", ("residual", "target+residual")),))
    with pytest.raises(InputError, match=r"There is no directory '.*valid/target'; put the recordings of 'target' th"):
        validation_tracks(data)
    (tmp_path / "train" / "target" / "x.wav").unlink()
    (tmp_path / "train" / "target" / "y.wav").rename(tmp_path / "train" / "target" / "._y.wav")
    with pytest.raises(InputError, match=r"train/target' holds no \.wav files; put the recordings of 'target' there"):
        training_songs(data, NETWORK)


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Data:
    """MUSDB18's own kind of file, 6 s at 44.1 kHz, and an empty cache to decode it into."""
    monkeypatch.setenv("JAXMSS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train").mkdir()
    shutil.copy(recording_path(), tmp_path / "train" / "Song.stem.mp4")
    return Data(root=str(tmp_path), seconds=1.0)


def test_stem_files_are_decoded_once_to_what_tracks_read(packed):
    network = architecture("cws-vocals")
    (song,) = training_songs(packed, network)
    waveforms, _ = validation_tracks(replace(packed, split="other", valid="train"))[0].read(MUSDB_STEMS)
    for stem, waveform in waveforms.items():
        clip = song.clips[stem]
        expected = np.clip(np.rint(waveform.T * 32768), -32768, 32767)
        np.testing.assert_array_equal(clip.read(0, clip.samples), expected)
    decoded = sorted(cache_directory().glob("decoded/Song-*/[!.]*"))
    times = [file.stat().st_mtime_ns for file in decoded]
    assert [file.name for file in decoded] == ["bass.wav", "drums.wav", "other.wav", "vocals.wav"]
    assert training_songs(packed, network) == [song]
    assert [file.stat().st_mtime_ns for file in decoded] == times


def test_a_damaged_stem_file_leaves_nothing_half_decoded(packed):
    file = Path(packed.root, "train", "Song.stem.mp4")
    whole = bytearray(file.read_bytes())
    half = len(whole) // 2
    whole[half : half + 20000] = bytes(20000)
    file.write_bytes(whole)
    before = set(cache_directory().glob("decoded/*/[!.]*"))
    with pytest.raises(InputError, match=r"Song.stem.mp4' cannot be decoded \(.*\); copy or download it again"):
        training_songs(packed, architecture("cws-vocals"))
    new = set(cache_directory().glob("decoded/*/[!.]*")) - before
    assert all(soundfile.info(file).duration > 6 for file in new)
    assert not list(cache_directory().glob("decoded/*/.part-*"))


def test_a_stem_that_stem_files_do_not_have_is_told(packed):
    parts = (Part("vocals", ("guitar",)),)
    with pytest.raises(InputError, match=r"lacks guitar: a .stem.mp4 holds mixture, drums, bass, other, vocals"):
        training_songs(replace(packed, parts=parts), architecture("cws-vocals"))


def test_a_cache_that_cannot_be_written_is_told(packed, monkeypatch):
    monkeypatch.setenv("JAXMSS_CACHE", "/proc/nowhere")
    with pytest.raises(InputError, match=r"cannot be decoded into '/proc/nowhere': .*set JAXMSS_CACHE to another dir"):
        training_songs(packed, architecture("cws-vocals"))
