"""Files hold what was written, never wrap around, and appear complete or not at all."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.files import RATE, music
from jaxmss.audio.reading import open_audio, read
from jaxmss.audio.stems import open_stems
from jaxmss.audio.wav import wav_header
from jaxmss.audio.writing import EXTENSIONS, open_writer
from jaxmss.errors import AudioError

FORMATS = list(EXTENSIONS)
STEP = {"wav16": 2**-15, "wav24": 2**-23, "flac": 2**-23, "wav32f": 0.0}  # of the integers that the format holds


def write(path: Path, waveform: np.ndarray, format: str, rate: int = RATE, block: int = 1000) -> None:
    with open_writer(path, rate, len(waveform), format=format) as writer:
        for start in range(0, waveform.shape[1], block):
            writer.write(waveform[:, start : start + block])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_is_read_back(tmp_path, format, channels):
    sound = music(1.0, channels=channels)
    path = tmp_path / f"a b'ü{EXTENSIONS[format]}"
    write(path, sound, format)
    back, rate = read(path)
    assert (back.shape, rate) == (sound.shape, RATE)
    if format == "mp3":
        error = np.sum((back - sound) ** 2) / np.sum(sound**2)
        assert 10 * np.log10(error) < -20
    else:
        np.testing.assert_allclose(back, sound, atol=STEP[format] / 2, rtol=0)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("format", "subtype"), [("wav16", "PCM_16"), ("wav24", "PCM_24"), ("wav32f", "FLOAT"), ("flac", "PCM_24")]
)
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_another_reader_agrees_about_the_file(tmp_path, rate, format, subtype):
    sound = music(0.1, rate)
    write(tmp_path / "a", sound, format, rate)
    info = soundfile.info(tmp_path / "a")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (rate, 2, sound.shape[1], subtype)
    back, _ = soundfile.read(tmp_path / "a", dtype="float32")
    np.testing.assert_allclose(back.T, sound, atol=STEP[format] / 2, rtol=0)


@pytest.mark.parametrize(("format", "subtype"), [("wav16", "PCM_16"), ("wav24", "PCM_24"), ("flac", "PCM_24")])
def test_integers_survive_reading_and_writing_bit_by_bit(tmp_path, format, subtype):
    edges = [-(2**31), -(2**31) + 2**16, -(2**16), 0, 2**16, 2**31 - 2**16]  # exact in 16 and in 24 bits
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (1000, 2)) << 16
    source = np.concatenate([np.array(edges)[:, None].repeat(2, 1), noise]).astype(np.int32)
    soundfile.write(tmp_path / "a.wav", source, RATE, subtype=subtype)
    waveform, _ = read(tmp_path / "a.wav")
    write(tmp_path / "b", waveform, format)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b", dtype="int32")[0], source)


@pytest.mark.parametrize("format", ["wav16", "wav24", "flac"])
def test_full_scale_and_beyond_is_clamped_and_never_wraps(tmp_path, format):
    sound = np.array([[1.0, -1.0, 1.5, -1.5, 1000.0, -1000.0, 0.99999997]], np.float32)
    write(tmp_path / "a", sound, format)
    back, _ = read(tmp_path / "a")
    np.testing.assert_allclose(back, np.clip(sound, -1, 1), atol=STEP[format], rtol=0)


def test_float_wav_keeps_what_lies_beyond_full_scale(tmp_path):
    sound = np.array([[1.5, -1000.0, 1e-30]], np.float32)
    write(tmp_path / "a.wav", sound, "wav32f")
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], sound)


@pytest.mark.parametrize("format", ["wav16", "wav24", "wav32f", "flac"])
@pytest.mark.parametrize("frames", [1, 3])
def test_few_samples_of_one_channel_make_a_proper_file(tmp_path, frames, format):
    write(tmp_path / "a", np.full((1, frames), 0.5, np.float32), format)
    np.testing.assert_array_equal(read(tmp_path / "a")[0], np.full((1, frames), 0.5, np.float32))
    if format != "flac":
        riff_bytes = struct.unpack("<I", (tmp_path / "a").read_bytes()[4:8])[0]
        assert riff_bytes + 8 == os.path.getsize(tmp_path / "a")
        assert riff_bytes % 2 == 0


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("beyond", [False, True])
def test_wav_turns_into_rf64_beyond_4_gib(tmp_path, beyond, bits):
    frame_bytes = 2 * bits // 8
    frames = (2**32 - 200) // frame_bytes + (1000 if beyond else 0)
    header = wav_header(frames * frame_bytes, RATE, 2, bits)
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + frames * frame_bytes)  # sparse
    assert header[:4] == (b"RF64" if beyond else b"RIFF")
    assert len(header) == len(wav_header(0, RATE, 2, bits))
    with soundfile.SoundFile(tmp_path / "a.wav") as sound:
        assert (sound.frames, sound.samplerate, sound.channels) == (frames, RATE, 2)
    with open_audio(tmp_path / "a.wav") as reader:
        assert reader.frames == frames


def test_a_block_of_another_shape_is_refused_and_nothing_stays(tmp_path):
    with (
        pytest.raises(ValueError, match=r"shape \(2, t\), not \(1, 5\)"),
        open_writer(tmp_path / "a.wav", RATE, 2, format="wav16") as writer,
    ):
        writer.write(np.zeros((1, 5), np.float32))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_nothing_is_left_and_the_old_file_stays(tmp_path, error, format):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def broken_off() -> None:
        with open_writer(path, RATE, 2, format=format) as writer:
            writer.write(music(1.0))
            raise error

    with pytest.raises(error):
        broken_off()
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("format", ["wav24", "flac", "mp3"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_leaves_no_stem(tmp_path, number, format):
    code = """
import sys
import numpy as np
from jaxmss.audio.stems import open_stems
noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 2, 44100)).astype(np.float32)
paths = {name: sys.argv[1] + "/" + name for name in ("vocals", "other")}
with open_stems(paths, 44100, 2, format=sys.argv[2], clipping="clamp") as stems:
    for _ in range(3):
        stems.write(noise)
    print("writing", flush=True)
    while True:
        stems.write(noise[..., :100])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, format], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    assert len(os.listdir(tmp_path)) == 2, "both are being written under hidden names"
    time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=20)
    left = os.listdir(tmp_path)
    assert all(name.startswith(".jaxmss-") for name in left)
    if number == signal.SIGINT:
        assert left == []


@pytest.mark.parametrize("format", ["wav24", "flac"])  # mp3 is encoded by the same calls as flac, but slower
def test_ctrl_c_at_any_moment_leaves_no_stem(tmp_path, format):
    code = """
import os, random, signal, sys
import numpy as np
from jaxmss.audio.stems import open_stems
folder, format = sys.argv[1:]
signal.signal(signal.SIGALRM, signal.default_int_handler)
paths = {name: folder + "/" + name for name in ("vocals", "other")}
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + random.random() * 2e-3)  # while it opens, or later
        with open_stems(paths, 44100, 2, format=format, clipping="clamp") as stems:
            for _ in range(2000):  # Python itself loses an interrupt within a destructor
                stems.write(np.zeros((2, 2, 100), np.float32))
    except (KeyboardInterrupt, RuntimeError):  # the latter of a lock in Python's own Thread.start
        pass
    left = os.listdir(folder)
    if left and set(left) != set(paths):
        sys.exit(f"{left} stay")
    for name in left:
        os.remove(paths[name])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, format], check=True, timeout=60, capture_output=True, text=True
    )
    assert "closed file" not in done.stderr


FILL_DISK = """
import resource, sys
import numpy as np
from jaxmss.audio.stems import open_stems
from jaxmss.audio.writing import open_writer
from jaxmss.errors import AudioError
kind, format, folder = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 44100)).astype(np.float32)
try:
    if kind == "file":
        with open_writer(folder + "/a", 44100, 2, format=format) as writer:
            for start in range(0, 10 * 44100, 4410):
                writer.write(noise[:, start % 44100 :][:, :4410])
    else:
        with open_stems({"vocals": folder + "/a"}, 44100, 2, format=format, clipping=kind) as writer:
            for start in range(0, 10 * 44100, 4410):
                writer.write(noise[None, :, start % 44100 :][..., :4410])
except AudioError as error:
    print(error)
"""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["file", "rescale"])
def test_a_file_that_cannot_grow_is_reported_in_one_line_and_removed(tmp_path, kind, format):
    result = subprocess.run(
        [sys.executable, "-c", FILL_DISK, kind, format, tmp_path], capture_output=True, text=True, check=True
    )
    assert result.stdout.count("\n") == 1
    assert "cannot be written: File too large; free some space" in result.stdout
    assert result.stderr == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_reported(tmp_path, format):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(AudioError, match="No space left on device; free some space"):
            write(tmp_path / "a", np.tile(music(1.0), 10), format)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    def opens(path: Path) -> None:
        with open_writer(path, RATE, 2, format="wav16"):
            pytest.fail("the body must not start")

    (tmp_path / "file").touch()
    with pytest.raises(
        AudioError, match=r"none/a\.wav' cannot be written: No such file or directory; create the directory"
    ):
        opens(tmp_path / "none/a.wav")
    with pytest.raises(AudioError, match="Is a directory; choose another name"):
        opens(tmp_path)
    with pytest.raises(AudioError, match="Not a directory"):
        opens(tmp_path / "file/a.wav")
    with pytest.raises(AudioError, match="File name too long; choose a shorter name"):
        opens(tmp_path / ("x" * 300))


def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    code = """
import os, sys
from jaxmss.audio.writing import open_writer
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
try:
    with open_writer(sys.argv[1], 44100, 2, format="wav16"):
        print("the body must not start")
except ValueError as error:
    print(error)
"""
    tmp_path.parent.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", code, "a.wav"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == ("'a.wav' cannot be written: Permission denied; choose a directory that you may write to\n")


def test_a_rate_or_format_that_does_not_exist_is_refused(tmp_path):
    with (
        pytest.raises(
            AudioError, match="MP3 has no sample rate of 192000 Hz; choose flac or wav24, or convert to 48000"
        ),
        open_writer(tmp_path / "a.mp3", 192000, 2, format="mp3"),
    ):
        pytest.fail("the body must not start")
    with (
        pytest.raises(AudioError, match="unknown audio format 'wav64'; did you mean 'wav"),
        open_writer(tmp_path / "a.wav", RATE, 2, format="wav64"),
    ):
        pytest.fail("the body must not start")
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "a.wav", music(0.1), "wav16")
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, music(0.1), "wav32f")
        time.sleep(0.01)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stems_are_not_opened_one_without_the_other(tmp_path):
    paths = {"vocals": tmp_path / "vocals.wav", "other": tmp_path / "none/other.wav"}
    with pytest.raises(AudioError, match=r"other\.wav"), open_stems(paths, RATE, 2, format="wav16"):
        pytest.fail("the body must not start")
    assert os.listdir(tmp_path) == []
