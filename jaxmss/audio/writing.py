"""Writing audio files block by block: WAV, FLAC and MP3."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import soundfile

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.audio.wav import WavFile
from jaxmss.errors import AudioError, suggest

AudioFormat = Literal["wav16", "wav24", "wav32f", "flac", "mp3"]
EXTENSIONS: dict[str, str] = {
    "wav16": ".wav",
    "wav24": ".wav",
    "wav32f": ".wav",
    "flac": ".flac",
    "mp3": ".mp3",
}
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
FLAC_LARGEST_RATE = 655350


@runtime_checkable
class AudioWriter(Protocol):
    """Takes a file's samples in order."""

    def write(self, block: np.ndarray) -> None:
        """Append float32 samples (c, t). All formats but wav32f clamp them to full scale, [-1, 1].

        Raises:
            AudioError: if the disk is full or refuses.
            ValueError: if the number of channels is another than the file's.
        """


@runtime_checkable
class _Encoder(AudioWriter, Protocol):
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


@contextmanager
def open_writer(path: Path | str, sample_rate: int, channels: int, *, format: str) -> Iterator[AudioWriter]:
    """Open an audio file for writing in blocks; it appears under its name, complete, when the context ends well.

    After an exception, Ctrl-C included, nothing is left behind. An `AudioFormat` is `wav16`, `wav24` (integers),
    `wav32f` (float32, not clamped), `flac` (24 bit, lossless) or `mp3` (constant 320 kbit/s, or the most that a low
    sample rate allows; readers give back the exact length). WAV past 4 GiB becomes RF64.

    Raises:
        AudioError: if the directory is missing, unwritable or full, `path` is a directory, or the format is unknown or
            does not support the sample rate.
    """
    path = Path(path)
    check_format(path, sample_rate, format)
    with written_aside([path]) as [file], encoding(file, path, sample_rate, channels, format) as writer:
        yield writer


def check_format(path: Path, sample_rate: int, format: str) -> None:
    """Raise AudioError if the format is unknown or cannot hold the sample rate."""
    if format not in get_args(AudioFormat):
        raise AudioError(f"unknown audio format {format!r}{suggest(format, get_args(AudioFormat))}")
    if format == "mp3" and sample_rate not in MP3_RATES:
        raise AudioError(
            f"{str(path)!r} cannot be written: MP3 has no sample rate of {sample_rate} Hz; "
            f"choose flac or wav24, or convert to {max(MP3_RATES)} Hz"
        )
    if format == "flac" and sample_rate > FLAC_LARGEST_RATE:
        raise AudioError(f"{str(path)!r} cannot be written: FLAC has no sample rate of {sample_rate} Hz; choose wav24")


@contextmanager
def encoding(file: BinaryIO, path: Path, sample_rate: int, channels: int, format: str) -> Iterator[AudioWriter]:
    """Encode into an open file, which stays open; `path` is the name for error messages."""
    with reporting(path):
        encoder: _Encoder
        if format in ("flac", "mp3"):
            encoder = _SoundfileEncoder(file, path, sample_rate, channels, format)
        else:
            encoder = _WavEncoder(file, path, sample_rate, channels, format)
    try:
        yield encoder
        encoder.finish()
    finally:
        encoder.abandon()


class _WavEncoder:
    def __init__(self, file: BinaryIO, path: Path, sample_rate: int, channels: int, format: str):
        self._path, self._channels, self._format = path, channels, format
        bits = {"wav16": 16, "wav24": 24, "wav32f": 32}[format]
        self._wav = WavFile(file, sample_rate, channels, bits)

    def write(self, block: np.ndarray) -> None:
        frames = _interleaved(block, self._channels)
        if self._format == "wav16":
            samples = _to_integers(frames, 16).astype("<i2").tobytes()
        elif self._format == "wav24":
            four_bytes = _to_integers(frames, 24).astype("<i4").view(np.uint8).reshape(-1, 4)
            samples = four_bytes[:, :3].tobytes()
        else:
            samples = frames.astype("<f4").tobytes()
        with reporting(self._path):
            self._wav.write(samples)

    def finish(self) -> None:
        with reporting(self._path):
            self._wav.finish()

    def abandon(self) -> None:
        """Nothing to let go: the file belongs to the caller."""


class _SoundfileEncoder:
    """Works in a thread of its own: libsndfile calls Python to write, and Ctrl-C, which only reaches the main thread,
    would be swallowed on its way through C. Calls and results pass through simple queues, which Ctrl-C leaves in order
    at any moment; a lock of `concurrent.futures` may stay taken for ever.
    """

    def __init__(self, file: BinaryIO, path: Path, sample_rate: int, channels: int, format: str):
        self._path, self._channels, self._format = path, channels, format
        self._file = _FailureKeeper(file)
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._sound: Any = None
        options: dict[str, Any] = {"format": "FLAC", "subtype": "PCM_24"}
        if format == "mp3":
            # compression level 0 is the highest bit rate
            options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.0}
        try:
            self._thread.start()
            self._run(partial(self._open, sample_rate, channels, options))
        except BaseException:
            self.abandon()
            raise

    def write(self, block: np.ndarray) -> None:
        frames = _interleaved(block, self._channels)
        if self._format == "flac":
            self._run(partial(self._sound.write, _to_integers(frames, 24) << 8))  # libsndfile takes the upper 24 bits
        else:
            self._run(partial(self._sound.write, np.clip(frames, -1.0, 1.0)))

    def finish(self) -> None:
        self._run(self._close)

    def abandon(self) -> None:
        # what is still buffered need not be written; after Ctrl-C the thread may begin when the file is closed already
        self._file.failure = self._file.failure or OSError("abandoned")
        self._calls.put(self._close)
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _open(self, sample_rate: int, channels: int, options: dict[str, Any]) -> None:
        self._sound = soundfile.SoundFile(self._file, "w", sample_rate, channels, **options)

    def _close(self) -> None:
        if self._sound is not None:
            self._sound.close()

    def _run(self, call: Callable[[], Any]) -> None:
        self._calls.put(call)
        error = self._results.get()
        if self._file.failure is not None:  # says more than what soundfile makes of it
            with reporting(self._path):
                raise self._file.failure
        if error is not None:
            raise error

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
                self._results.put(None)
            except Exception as error:
                self._results.put(error)


class _FailureKeeper:
    """A file for libsndfile that keeps the first error of the operating system: callbacks from C cannot raise.

    After it the file, which may be closed then, is left alone.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.failure: OSError | None = None

    def write(self, content: bytes) -> int:
        if self.failure is None:
            try:
                return self._file.write(content)
            except OSError as error:
                self.failure = error
        return 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) if self.failure is None else b""

    def seek(self, offset: int, whence: int = 0) -> int:
        if self.failure is None:
            try:
                return self._file.seek(offset, whence)  # which first writes what the file has buffered
            except OSError as error:
                self.failure = error
        return -1

    def tell(self) -> int:
        return self._file.tell() if self.failure is None else -1


def _interleaved(block: np.ndarray, channels: int) -> np.ndarray:
    if block.ndim != 2 or block.shape[0] != channels:
        raise ValueError(f"a block must have the shape ({channels}, t), not {block.shape}")
    return np.ascontiguousarray(block.T, np.float32)


def _to_integers(frames: np.ndarray, bits: int) -> np.ndarray:
    """Scale by 2**(bits - 1), the inverse of reading, and clamp: 1.0 becomes the largest integer and never wraps."""
    full_scale = 2 ** (bits - 1)
    scaled = np.rint(frames * np.float32(full_scale))
    return np.clip(scaled, -full_scale, full_scale - 1).astype(np.int32)
