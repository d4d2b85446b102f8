"""Reading audio files block by block: soundfile for what libsndfile knows best, FFmpeg (PyAV) for everything else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile

from jaxmss.audio import containers
from jaxmss.audio.resampling import resample
from jaxmss.errors import AudioError

CHUNK = 1 << 13  # samples decoded at a time, and how precisely the place of damage in a FLAC file is told
MP3_PADDING = 3  # MPEG frames: what an encoder adds at both ends and a decoder takes off again, and its own frame
LARGEST_RATE = 10_000_000  # in Hz: beyond any recorder, and few enough for the 32 bits of a WAV file's bytes a second
UNKNOWN_FRAMES = 1 << 62  # from here on libsndfile means that a header does not say how long the sound is
# MP3 is left to FFmpeg, for libsndfile's decoder writes warnings about odd files to the terminal.
SOUNDFILE_MAGICS = {b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"fLaC", b"OggS"}


@dataclass
class AudioReader:
    """An open audio file, from `open_audio`; a context manager that closes it.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: 1 or 2.
        frames: samples per channel, or None where only decoding to the end can tell.
        duration_hint: seconds, an estimate for compressed files, or None.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int | None
    duration_hint: float | None
    _promised: float | None  # seconds that the header tells: a file that ends before them was cut
    _chunks: Iterable[np.ndarray]
    _resources: ExitStack

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def blocks(self, frames: int) -> Iterator[np.ndarray]:
        """Yield the file once, from start to end, in float32 blocks (c, `frames`); the last one may be shorter.

        Raises:
            AudioError: at the first NaN or infinite sample, where the file is damaged, where it ends before the
                duration that its header promises, and at the end of a file without a single sample.
        """
        held: list[np.ndarray] = []
        held_frames = 0
        for chunk in self._checked_chunks():
            held.append(chunk)
            held_frames += chunk.shape[-1]
            if held_frames < frames:
                continue
            joined = np.concatenate(held, axis=-1)
            whole = held_frames - held_frames % frames
            for start in range(0, whole, frames):
                yield joined[:, start : start + frames]
            held = [joined[:, whole:]]
            held_frames -= whole
        if held_frames:
            yield np.concatenate(held, axis=-1)

    def _checked_chunks(self) -> Iterator[np.ndarray]:
        done = 0
        failure = None
        try:
            for chunk in self._chunks:
                if not np.isfinite(chunk).all():
                    second = (done + int(np.argmin(np.isfinite(chunk).all(axis=0)))) / self.sample_rate
                    raise _error(
                        self.path, f"holds NaN or infinite samples, the first at {second:.3f} s", "export it again"
                    )
                done += chunk.shape[-1]
                yield chunk
        except (soundfile.LibsndfileError, av.FFmpegError, _ChangedFormat) as error:
            failure = error
        seconds = done / self.sample_rate
        if self._promised is not None and seconds < self._promised:
            raise _cut_short(self.path, seconds, f"but its header promises at least {self._promised:.3f} s")
        if failure and self._promised is None:  # after the promised sound come but tags and garbage
            raise _cut_short(self.path, seconds, f"where decoding fails ({_reason(failure)})")
        if not done:
            raise _error(self.path, "holds no sound (0 samples)", "export it again or leave it out")


def open_audio(path: Path | str) -> AudioReader:
    """Open a mono or stereo audio file for reading in blocks; of a video or .stem.mp4 file, its first audio stream.

    Raises:
        AudioError: if the file is missing, a directory, empty, not audio, cut short or of more than two channels.
    """
    path = Path(path)
    with ExitStack() as resources:
        file = resources.enter_context(_open(path))
        missing = containers.missing_bytes(file)
        reader = _open_with_soundfile(path, file, resources)
        if missing:
            raise _cut_short(path, reader.duration_hint if reader else None, f"at least {missing} bytes are missing")
        if reader is None:
            reader = _open_with_ffmpeg(path, file, resources)
        if reader.channels > 2:
            what = f"has {reader.channels} channels, but only mono and stereo can be separated"
            raise _error(path, what, "mix it down to stereo first")
        if reader.sample_rate > LARGEST_RATE:
            what = f"claims to have {reader.sample_rate:,} samples a second: its header is damaged"
            raise _error(path, what, "check that it plays, or convert it to wav")
        reader._resources = resources.pop_all()
    return reader


def read(path: Path | str, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a whole file: the waveform, float32 (c, t), and its rate, which is `sample_rate` where that is given.

    Raises:
        AudioError: as `open_audio` and `AudioReader.blocks` do.
    """
    with open_audio(path) as reader:
        waveform = np.concatenate(list(reader.blocks(CHUNK)), axis=-1)
    if sample_rate is None:
        return waveform, reader.sample_rate
    return resample(waveform, reader.sample_rate, sample_rate), sample_rate


class _ChangedFormat(Exception):
    """The sample rate or the channels change in mid-stream."""


def _open(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            os.listdir(path)  # the error of a folder that cannot be read says more
            raise _error(path, "is a directory", "name a file")
        if path.exists() and not path.is_file():
            raise _error(path, "is not a regular file", "save it to a disk first")
        file = path.open("rb")
        if not file.read(1):
            file.close()
            raise _error(path, "is empty (0 bytes)", "copy or download it again")
    except FileNotFoundError as error:
        raise _error(path, "does not exist", "check the path") from error
    except OSError as error:
        raise _error(path, f"cannot be read: {_reason(error)}", "check the file and its permissions") from error
    return file


def _open_with_soundfile(path: Path, file: BinaryIO, resources: ExitStack) -> AudioReader | None:
    """Open what libsndfile reads well; return None for what it does not, and leave that to FFmpeg."""
    file.seek(0)
    if file.read(4) not in SOUNDFILE_MAGICS:
        return None
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        return None
    if sound.frames >= UNKNOWN_FRAMES:
        sound.close()
        return None
    resources.enter_context(sound)
    seconds = sound.frames / sound.samplerate
    chunks = _soundfile_chunks(sound)
    return AudioReader(path, sound.samplerate, sound.channels, sound.frames, seconds, seconds, chunks, resources)


def _soundfile_chunks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(chunk := sound.read(CHUNK, dtype="float32", always_2d=True)):
        yield chunk.T


def _open_with_ffmpeg(path: Path, file: BinaryIO, resources: ExitStack) -> AudioReader:
    mp3_frames = containers.count_mp3_frames(file)
    file.seek(0)
    try:
        container = resources.enter_context(av.open(file, mode="r", metadata_errors="replace"))
    except (av.FFmpegError, OSError, EOFError) as error:
        what = f"is not audio, or is damaged or cut short ({_reason(error)})"
        raise _error(path, what, "check that it plays, or convert it to wav") from error
    if not container.streams.audio:
        raise _error(path, "holds no audio stream", "name a file with sound")
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if codec is None or not codec.sample_rate or not codec.layout.nb_channels:  # no decoder, or nothing to decode
        raise _error(path, "is not audio, or is damaged", "check that it plays, or convert it to wav")
    hint = _seconds(container, stream)
    promised = None
    if mp3_frames is not None and container.format.name == "mp3":
        promised = max(0, mp3_frames - MP3_PADDING) * codec.frame_size / codec.sample_rate
    chunks = _ffmpeg_chunks(container, stream)
    return AudioReader(path, codec.sample_rate, codec.layout.nb_channels, None, hint, promised, chunks, resources)


def _seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _ffmpeg_chunks(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[np.ndarray]:
    codec = stream.codec_context
    to_float = av.AudioResampler(format="fltp", layout=codec.layout, rate=codec.sample_rate)
    for frame in container.decode(stream):
        try:
            converted = to_float.resample(frame)
        except ValueError as error:
            raise _ChangedFormat("the sample rate or the channels change") from error
        for part in converted:
            yield part.to_ndarray()


def _cut_short(path: Path, seconds: float | None, why: str) -> AudioError:
    ends = "" if seconds is None else f"the sound ends at {seconds:.3f} s, "
    return _error(path, f"is cut short or damaged: {ends}{why}", "get the whole file, or convert what is there to wav")


def _error(path: Path, what: str, advice: str) -> AudioError:
    return AudioError(f"{str(path)!r} {what}; {advice}")  # the quotes keep a name with a line break on one line


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return text.strip().rstrip(".")
