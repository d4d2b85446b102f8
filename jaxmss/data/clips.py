"""Recordings read at random places as 16-bit samples: what all kinds have in common, and WAV files.

Nothing here imports JAX.

A read opens the file, reads and closes it again: beside the reading itself that costs microseconds, any number of files
can be in use, and a file that is cut or vanishes while training is an error with its name. (A mapped file would be
a bus error; and each one holds a file descriptor.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import soundfile
from jaxtyping import Float, Int16

from jaxmss.audio.containers import missing_bytes
from jaxmss.errors import AudioError

FULL_SCALE = 32768

Pcm = Int16[np.ndarray, "t c"]


@runtime_checkable
class Clip(Protocol):
    """A recording of 16-bit samples, wherever they lie."""

    @property
    def rate(self) -> int:
        """In Hz."""
        ...

    @property
    def channels(self) -> int:
        """Of each sample."""
        ...

    @property
    def samples(self) -> int:
        """Length."""
        ...

    def read(self, start: int, count: int) -> Pcm:
        """Return the samples from `start` to `start + count`, which must lie within; from any thread."""
        ...


@dataclass(frozen=True)
class Song:
    """Stems that belong together, and are alike in rate, channels and length.

    Attributes:
      name: of the song.
      clips: the recording of each stem, by its name.
    """

    name: str
    clips: Mapping[str, Clip]


@dataclass(frozen=True)
class PcmClip:
    """A WAV file of 16-bit samples, which are read as they are.

    Attributes:
      path: the file.
      rate: in Hz.
      channels: of each sample.
      samples: length.
      offset: of the first sample in the file, in bytes.
    """

    path: Path
    rate: int
    channels: int
    samples: int
    offset: int

    def read(self, start: int, count: int) -> Pcm:
        """Return `count` samples from `start`, which must lie within. Raises `AudioError` if they are not there."""
        pcm = np.empty((count, self.channels), "<i2")
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                read = os.preadv(file, [pcm.data], self.offset + start * self.channels * pcm.itemsize)
            finally:
                os.close(file)
        except OSError as error:
            raise AudioError(f"{str(self.path)!r} cannot be read: {error.strerror}; check the disk") from error
        if read < pcm.nbytes:
            raise AudioError(f"{str(self.path)!r} ends within its samples; copy or download it again")
        return pcm


@dataclass(frozen=True)
class ConvertedClip:
    """A file of any other samples that libsndfile knows, rounded to 16 bits; beyond full scale they are clipped.

    Attributes:
      path: the file.
      rate: in Hz.
      channels: of each sample.
      samples: length.
    """

    path: Path
    rate: int
    channels: int
    samples: int

    def read(self, start: int, count: int) -> Pcm:
        """Return `count` samples from `start`, which must lie within.

        Raises `AudioError` if they are not there, or are NaN or infinite.
        """
        try:
            with soundfile.SoundFile(self.path) as file:
                file.seek(start)
                read = file.read(count, dtype="float32", always_2d=True)
        except (OSError, soundfile.LibsndfileError) as error:
            raise AudioError(f"{str(self.path)!r} cannot be read: {_reason(error)}; check the file") from error
        if len(read) < count:
            raise AudioError(f"{str(self.path)!r} ends within its samples; copy or download it again")
        finite = np.isfinite(read).all(axis=1)
        if not finite.all():
            second = (start + int(np.argmin(finite))) / self.rate
            raise AudioError(
                f"{str(self.path)!r} holds NaN or infinite samples, one at {second:.3f} s; export it again"
            )
        return to_pcm(read)


def open_clip(path: Path) -> PcmClip | ConvertedClip:
    """Return the recording that a WAV file holds, going by its headers alone.

    Raises `AudioError` for a file that is missing, not audio, or shorter than its headers promise.
    """
    try:
        with path.open("rb") as file:
            if missing := missing_bytes(file):  # libsndfile would quietly read what there is
                raise AudioError(f"{str(path)!r} is cut short by {missing} bytes; copy or download it again")
            file.seek(0)
            info = soundfile.info(file)
            offset = _first_sample(file) if info.subtype == "PCM_16" else None
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"{str(path)!r} cannot be read as audio: {_reason(error)}; copy it again") from error
    if offset is None:
        return ConvertedClip(path, info.samplerate, info.channels, info.frames)
    return PcmClip(path, info.samplerate, info.channels, info.frames, offset)


def to_pcm(waveform: Float[np.ndarray, "*axes"]) -> Int16[np.ndarray, "*axes"]:
    """Return samples of full scale 1 as 16-bit integers, clipped (a cast alone would turn 1.0 into -32768)."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _first_sample(file: BinaryIO) -> int | None:
    """Return where the samples of a RIFF or RF64 file start, in bytes; None if it is another format."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    while len(head := file.read(8)) == 8:
        if head[:4] == b"data":
            return file.tell()
        length = int.from_bytes(head[4:], "little")
        file.seek(length + length % 2, os.SEEK_CUR)
    return None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return text.strip().rstrip(".")
