"""Every format comes out as it went in, and every kind of bad file is refused by name."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.files import (
    FFMPEG_FORMATS,
    RATE,
    SOUNDFILE_FORMATS,
    music,
    rate_of,
    write_any,
    write_with_ffmpeg,
    write_with_soundfile,
)
from jaxmss.audio.reading import open_audio, read
from jaxmss.errors import AudioError

LOSSLESS = ["wav", "flac", "aiff", "caf", "w64", "rf64", "au", "mka", "alac.m4a"]
EXACT_LENGTH = [*LOSSLESS, "ogg", "opus", "mp3", "webm"]
ALL = [*SOUNDFILE_FORMATS, *FFMPEG_FORMATS]


def signal_to_error_db(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(expected**2) / np.sum((expected - got) ** 2)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extension", ALL)
def test_every_format_is_read_in_time_and_in_full(tmp_path, extension, channels):
    sound = music(1.0, rate_of(extension), channels)
    waveform, rate = read(write_any(tmp_path, extension, sound))
    assert rate == rate_of(extension)
    assert waveform.dtype == np.float32
    assert waveform.shape[0] == channels
    if extension in EXACT_LENGTH:
        assert waveform.shape == sound.shape
    elif extension != "wma":  # these containers keep the encoder's padding
        assert 0 <= waveform.shape[1] - sound.shape[1] <= 4096
    else:  # FFmpeg's encoder drops an unfinished last frame
        assert -2048 <= waveform.shape[1] - sound.shape[1] <= 0
    # raw AAC cannot say that its first samples are the encoder's; FFmpeg's WMA encoder and decoder lose a first frame
    late = {"aac": 1024, "wma": -2048}.get(extension, 0)
    assert np.argmax(np.correlate(waveform[0, 4000:24000], sound[0, 8000:18000])) == 4000 + late
    if extension in LOSSLESS:
        np.testing.assert_allclose(waveform, sound, atol=2**-15)
    else:
        assert signal_to_error_db(sound[:, 4000:40000], waveform[:, 4000 + late : 40000 + late]) > 10


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 48000, 96000, 192000])
def test_any_sample_rate_is_read(tmp_path, rate):
    sound = music(0.1, rate)
    with open_audio(write_with_soundfile(tmp_path / "a.wav", sound, rate)) as reader:
        assert (reader.sample_rate, reader.channels, reader.frames) == (rate, 2, sound.shape[1])
        assert reader.duration_hint == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("frames", [1, 1000, 4096, 5000, 10**6])
@pytest.mark.parametrize("extension", ["wav", "m4a"])
def test_blocks_are_of_the_wanted_length_and_join_to_the_whole(tmp_path, extension, frames):
    path = write_any(tmp_path, extension, music(0.3))
    whole, _ = read(path)
    with open_audio(path) as reader:
        blocks = list(reader.blocks(frames))
    assert all(block.shape[1] == frames for block in blocks[:-1])
    assert 0 < blocks[-1].shape[1] <= frames
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mka"])
def test_a_single_sample_is_read(tmp_path, extension):
    waveform, _ = read(write_any(tmp_path, extension, np.full((2, 1), 0.25, np.float32)))
    assert waveform.shape == (2, 1)


def test_silence_is_read_as_silence(tmp_path):
    waveform, _ = read(write_any(tmp_path, "flac", np.zeros((2, RATE), np.float32)))
    assert waveform.shape == (2, RATE)
    assert not waveform.any()


def test_read_converts_to_the_wanted_rate(tmp_path):
    waveform, rate = read(write_any(tmp_path, "wav", music(1.0)), sample_rate=22050)
    assert (rate, waveform.shape) == (22050, (2, 22050))


@pytest.mark.parametrize(
    "name", ["two words.wav", 'it\'s "quoted".wav', "Señor Ōta 音楽.wav", "two\nlines.wav", "-x.wav"]
)
def test_any_file_name_is_read(tmp_path, name):
    assert read(write_with_soundfile(tmp_path / name, music(0.1), extension="wav"))[0].shape == (2, 4410)


def test_a_name_that_is_not_unicode_is_read(tmp_path):
    path = tmp_path / "caf\udce9.wav"  # Latin-1 bytes, as old archives hold them
    write_with_soundfile(tmp_path / "a.wav", music(0.1)).rename(path)
    assert read(path)[0].shape == (2, 4410)


def test_tags_in_an_old_encoding_do_not_matter(tmp_path):
    tagged = write_with_ffmpeg(tmp_path / "a.mp3", music(1.0), "libmp3lame").read_bytes()
    id3v1 = b"TAG" + b"Se\xf1or".ljust(125, b"\0")
    (tmp_path / "b.mp3").write_bytes(tagged + id3v1)
    assert read(tmp_path / "b.mp3")[0].shape == (2, RATE)


def test_garbage_after_the_promised_sound_of_an_mp3_is_passed_over(tmp_path):
    path = write_with_ffmpeg(tmp_path / "a.mp3", music(3.0), "libmp3lame")
    path.write_bytes(path.read_bytes() + b"lyrics" * 400)
    assert read(path)[0].shape == (2, 3 * RATE)


def test_an_mp3_that_does_not_count_its_frames_is_read_to_its_end(tmp_path):
    path = write_with_ffmpeg(tmp_path / "a.mp3", music(1.0), "libmp3lame", write_xing="0")
    with open_audio(path) as reader:
        assert reader.frames is None
        assert sum(block.shape[1] for block in reader.blocks(4096)) >= RATE


def test_a_wav_from_a_pipe_without_a_length_is_read_to_its_end(tmp_path):
    path = write_with_soundfile(tmp_path / "a.wav", music(1.0))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert read(path)[0].shape == (2, RATE)


def test_a_flac_from_a_pipe_without_a_length_is_read_to_its_end(tmp_path):
    path = write_with_soundfile(tmp_path / "a.flac", music(1.0))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert read(path)[0].shape == (2, RATE)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("extension", ALL)
def test_a_file_cut_short_is_refused_not_shortened(tmp_path, extension, part):
    path = write_any(tmp_path, extension, music(2.0, rate_of(extension)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    if (extension, part) == ("mp3", 0.999):  # a loss of one frame is within the precision of its header
        assert 2 * RATE - 2000 < read(path)[0].shape[1] <= 2 * RATE
        return
    with pytest.raises(AudioError, match="cut short") as caught:
        read(path)
    assert_one_line_about(caught.value, path)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_the_refusal_of_a_cut_file_says_at_which_second_it_ends(tmp_path, extension):
    path = write_any(tmp_path, extension, music(2.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"the sound ends at (0\.[789]|1\.0)\d\d s"):
        read(path)


@pytest.mark.parametrize("options", [{}, {"movflags": "+faststart"}], ids=["index last", "index first"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_cut_m4a_is_refused(tmp_path, part, options):
    path = write_with_ffmpeg(tmp_path / "a.m4a", music(2.0), "aac", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(AudioError, match="cut short") as caught:
        read(path)
    assert_one_line_about(caught.value, path)


@pytest.mark.parametrize("length", [1, 10, 30, 44])
@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_a_file_cut_in_its_header_is_refused(tmp_path, extension, length):
    path = write_any(tmp_path, extension, music(0.5))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AudioError) as caught:
        read(path)
    assert_one_line_about(caught.value, path)


def test_damage_in_the_middle_is_refused(tmp_path):
    path = write_any(tmp_path, "flac", music(2.0))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20000] = bytes(20000)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"not audio at all\n" * 500, "audio"),
        ("noise.mp3", np.random.default_rng(0).bytes(50_000), "is not audio"),
        ("page.m4a", b"<!DOCTYPE html><html></html>", "audio"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        read(path)
    assert_one_line_about(caught.value, path)


def with_format(tag: int = 1, channels: int = 2, rate: int = 44100) -> bytes:
    """Return a WAV file whose header may say what no recorder writes."""
    form = struct.pack("<HHIIHH", tag, channels, rate, 4 * 44100, 4, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 4000) + bytes(4000)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def first_frame_of_an_mp3(folder: Path) -> bytes:
    whole = write_any(folder, "mp3", music(0.5)).read_bytes()
    return whole[: max(whole.find(b"Xing"), whole.find(b"Info")) + 6]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{tag:x}.wav", with_format(tag)) for tag in (0x674F, 0xFFFE, 0x0FFF, 0x000A)),
        ("none.wav", with_format(channels=0)),
        ("fast.wav", with_format(rate=(1 << 31) - 1)),
        ("cut.mp3", first_frame_of_an_mp3),
        ("far.caf", b"caff\0\1\0\0junk" + struct.pack(">q", 1 << 62) + bytes(100)),
        ("far.w64", b"riff" + bytes(36) + b"junk" + bytes(12) + struct.pack("<q", 1 << 62) + bytes(100)),
        ("far.mp4", struct.pack(">I4sQ", 1, b"ftyp", (1 << 64) - 1) + bytes(100)),
        ("far.webm", b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(100)),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content(tmp_path) if callable(content) else content)
    with pytest.raises(AudioError) as caught:
        read(path)
    assert_one_line_about(caught.value, path)


@pytest.mark.parametrize("extension", ["wav", "ogg", "aiff"])
def test_a_file_without_samples_is_refused(tmp_path, extension):
    path = write_any(tmp_path, extension, np.zeros((2, 0), np.float32))
    with pytest.raises(AudioError, match="holds no sound") as caught:
        read(path)
    assert_one_line_about(caught.value, path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(AudioError, match="does not exist"):
        open_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="is a directory"):
        open_audio(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused_with_its_time(tmp_path, value):
    sound = music(1.0)
    sound[1, 33075] = value
    soundfile.write(tmp_path / "a.wav", sound.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"NaN or infinite samples, the first at 0\.750 s") as caught:
        read(tmp_path / "a.wav")
    assert_one_line_about(caught.value, tmp_path / "a.wav")


def test_more_than_two_channels_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 3)), RATE)
    write_with_ffmpeg(tmp_path / "b.m4a", music(0.5, channels=6), "aac")
    with pytest.raises(AudioError, match=r"has 3 channels.*mix it down to stereo"):
        open_audio(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=r"has 6 channels.*mix it down to stereo"):
        open_audio(tmp_path / "b.m4a")


def test_a_message_about_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    with pytest.raises(AudioError) as caught:
        open_audio(tmp_path / "two\nlines.wav")
    assert "\n" not in str(caught.value)


def test_bad_mp3_leaves_no_words_of_the_decoder_on_the_terminal(tmp_path):
    (tmp_path / "a.mp3").write_bytes(np.random.default_rng(0).bytes(50_000))
    code = "import sys; from jaxmss.audio.reading import read\ntry: read(sys.argv[1])\nexcept ValueError: pass"
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "a.mp3"], capture_output=True, check=True)
    assert result.stdout + result.stderr == b""


def test_reading_half_an_hour_takes_the_memory_of_a_block(tmp_path):
    code = """
import resource, sys
from jaxmss.audio.reading import open_audio
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with open_audio(sys.argv[1]) as reader:
    blocks = reader.blocks(10 * reader.sample_rate)
    next(blocks)
    before = peak()
    frames = 10 * reader.sample_rate + sum(block.shape[1] for block in blocks)
    assert frames == reader.frames == 30 * 60 * 44100, frames
print(peak() - before)
"""
    path = tmp_path / "half an hour.wav"
    frames = 30 * 60 * RATE
    from jaxmss.audio.wav import wav_header

    with path.open("wb") as file:  # sparse: 635 MB of silence that takes no room on the disk
        header = wav_header(frames * 8, RATE, 2, 32)
        file.write(header)
        file.truncate(len(header) + frames * 8)
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 30, "MB beyond the first ten seconds; the whole file would be 635"


def assert_one_line_about(error: AudioError, path: Path) -> None:
    assert "\n" not in str(error)
    assert path.name in str(error)
    assert ";" in str(error), "what to do"
