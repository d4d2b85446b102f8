from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from golden_weights import wave

from jaxmss.data import STEMS, demo_tracks, find_tracks, select
from jaxmss.demo.recording import recording_path
from jaxmss.errors import InputError

RATE = 8000


@pytest.fixture
def stems() -> dict[str, np.ndarray]:
    """Return what 16-bit files hold exactly."""
    drawn = {stem: np.round(wave(i, (2, RATE)) * 32768) / 32768 for i, stem in enumerate(STEMS)}
    return {"mixture": sum(drawn.values()), **drawn}


@pytest.fixture
def root(tmp_path, stems):
    """Write two tracks as MUSDB18-HQ lays them out, the second of them at half the level."""
    for name, gain in (("B - Second", 0.5), ("A - First", 1.0)):
        folder = tmp_path / "test" / name
        folder.mkdir(parents=True)
        for stem, waveform in stems.items():
            soundfile.write(folder / f"{stem}.wav", gain * waveform.T, RATE, subtype="FLOAT")
    return tmp_path


def test_folders_of_wav_files_are_tracks_in_the_order_of_their_names(root, stems):
    (root / "test" / ".hidden").mkdir()
    (root / "test" / "notes.txt").touch()
    first, second = find_tracks(root)
    assert (first.name, second.name) == ("A - First", "B - Second")
    read, rate = second.read(["vocals", "mixture"])
    assert rate == RATE
    assert list(read) == ["vocals", "mixture"]
    for stem, waveform in read.items():
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, 0.5 * stems[stem].astype(np.float32))


def test_accompaniment_is_the_sum_of_all_but_the_vocals(root, stems):
    read, _ = find_tracks(root)[0].read(["accompaniment", "bass"])
    expected = stems["drums"] + stems["bass"] + stems["other"]
    np.testing.assert_allclose(read["accompaniment"], expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(read["bass"], stems["bass"].astype(np.float32))


def test_stem_files_hold_the_same_streams_as_ffmpeg_finds_in_them(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    shutil.copy(recording_path(), folder / "Song.stem.mp4")
    (track,) = find_tracks(tmp_path)
    assert track.name == "Song"
    read, rate = track.read(["mixture", "vocals"])
    assert rate == 44100
    for stem, stream in (("mixture", 0), ("vocals", 4)):
        decoded = subprocess.run(
            ["ffmpeg", "-v", "error", "-i", recording_path(), "-map", f"0:a:{stream}", "-f", "f32le", "-"],
            capture_output=True,
            check=True,
        ).stdout
        np.testing.assert_allclose(read[stem], np.frombuffer(decoded, np.float32).reshape(-1, 2).T, rtol=0, atol=1e-6)


def test_mixture_of_the_demo_is_the_sum_of_its_stems():
    (track,) = demo_tracks()
    read, rate = track.read(["mixture", *STEMS])
    assert (rate, read["mixture"].shape) == (44100, (2, 268288))
    np.testing.assert_allclose(read["mixture"], sum(read[stem] for stem in STEMS), rtol=0, atol=1e-6)


def test_tracks_are_chosen_by_name_and_number(root):
    tracks = find_tracks(root)
    assert [track.name for track in select(tracks)] == ["A - First", "B - Second"]
    assert [track.name for track in select(tracks, ["B - Second"])] == ["B - Second"]
    assert [track.name for track in select(tracks, limit=1)] == ["A - First"]
    with pytest.raises(InputError, match="no track 'A - Frst': did you mean 'A - First'"):
        select(tracks, ["A - Frst"])
    with pytest.raises(InputError, match="no track 'x': the data holds A - First, B - Second"):
        select(tracks, ["x"])
    with pytest.raises(InputError, match="limit is 0"):
        select(tracks, limit=0)


def test_tracks_travel_to_other_processes(root):
    track = find_tracks(root)[0]
    assert pickle.loads(pickle.dumps(track)) == track


@pytest.mark.parametrize(
    ("root_", "split", "message"),
    [
        ("nowhere", "test", r"There is no directory '.*nowhere'"),
        ("", "valid", r"holds no split 'valid': it holds test"),
        ("", "", r"holds no split ''"),
        ("test", "A - First", r"'.*A - First' holds no tracks: neither folders"),
        ("twice", "test", r"test' holds 'Song' as a folder and as a .stem.mp4; remove one of them"),
    ],
)
def test_places_without_tracks_are_refused_in_one_line(root, root_, split, message):
    shutil.copytree(root / "test" / "A - First", root / "twice" / "test" / "Song")
    (root / "twice" / "test" / "Song.stem.mp4").touch()
    with pytest.raises(InputError, match=message) as caught:
        find_tracks(root / root_, split)
    assert "\n" not in str(caught.value)


def test_a_missing_stem_is_named_when_it_is_read(root):
    (root / "test" / "A - First" / "bass.wav").unlink()
    track = find_tracks(root)[0]
    assert track.read(["vocals"])[1] == RATE
    with pytest.raises(InputError, match=r"'A - First' lacks bass.wav: .* holds drums.wav, mixture.wav, other.wav, v"):
        track.read(["accompaniment"])


def test_stems_that_do_not_fit_together_are_refused(root):
    soundfile.write(root / "test" / "A - First" / "bass.wav", np.zeros((RATE - 1, 2)), RATE)
    with pytest.raises(InputError, match=r"bass has 2 channels of 7999 samples at 8000 Hz, vocals 2 channels of 8000"):
        find_tracks(root)[0].read(["vocals", "bass"])


def test_an_unknown_stem_is_refused(root):
    with pytest.raises(InputError, match="has no stem 'drum'; did you mean 'drums'"):
        find_tracks(root)[0].read(["drum"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-5000], "is cut short by [0-9]+ bytes; copy or download it again"),
        (lambda whole: b"no sound" * 100, "cannot be decoded .*; copy or download it again"),
        (lambda whole: whole[:100] + bytes(len(whole) - 100), "has 0 audio streams; a .stem.mp4 has 5: mixture, "),
    ],
)
def test_a_damaged_stem_file_is_refused_in_one_line(tmp_path, damage, message):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "Song.stem.mp4").write_bytes(damage(recording_path().read_bytes()))
    with pytest.raises(InputError, match=r"Song.stem.mp4' " + message) as caught:
        find_tracks(tmp_path)[0].read(["vocals"])
    assert "\n" not in str(caught.value)


def test_tracks_import_no_jax():
    program = "import sys, jaxmss.data; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
