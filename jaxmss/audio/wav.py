"""WAV files of any length: past 4 GiB the header turns into RF64 (EBU Tech 3306), in the place kept free for it.

Written here, not by libsndfile, for that turn, for conversions that give back the integers that were read, and for
files that depend on their samples alone (libsndfile stores the time of day beside the peak of a float file).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

PCM, IEEE_FLOAT = 1, 3
LARGEST_RIFF = 0xFFFFFFFF


def wav_header(data_bytes: int, sample_rate: int, channels: int, bits: int) -> bytes:
    """Return everything before the samples; its length does not depend on `data_bytes`. 32 bits are float samples."""
    frame_bytes = channels * bits // 8
    tag = IEEE_FLOAT if bits == 32 else PCM
    frames = data_bytes // frame_bytes
    form = struct.pack("<HHIIHH", tag, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits)
    chunks = _chunk(b"fmt ", form)
    if tag == IEEE_FLOAT:
        chunks = _chunk(b"fmt ", form + struct.pack("<H", 0)) + _chunk(
            b"fact", struct.pack("<I", min(frames, LARGEST_RIFF))
        )
    riff_bytes = 4 + 36 + len(chunks) + 8 + data_bytes + data_bytes % 2
    if riff_bytes > LARGEST_RIFF:
        sizes = struct.pack("<QQQI", riff_bytes, data_bytes, frames, 0)
        head = b"RF64" + struct.pack("<I", LARGEST_RIFF) + b"WAVE" + _chunk(b"ds64", sizes)
        return head + chunks + b"data" + struct.pack("<I", LARGEST_RIFF)
    head = b"RIFF" + struct.pack("<I", riff_bytes) + b"WAVE" + _chunk(b"JUNK", bytes(28))
    return head + chunks + b"data" + struct.pack("<I", data_bytes)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


class WavFile:
    """Writes sample bytes behind a header that `finish` completes."""

    def __init__(self, file: BinaryIO, sample_rate: int, channels: int, bits: int):
        self._file, self._sample_rate, self._channels, self._bits = file, sample_rate, channels, bits
        self._data_bytes = 0
        file.write(self._header())

    def write(self, samples: bytes) -> None:
        """Append interleaved little-endian samples."""
        self._file.write(samples)
        self._data_bytes += len(samples)

    def finish(self) -> None:
        """Complete the header; the file stays open."""
        self._file.write(bytes(self._data_bytes % 2))  # chunks have even lengths
        self._file.seek(0)
        self._file.write(self._header())

    def _header(self) -> bytes:
        return wav_header(self._data_bytes, self._sample_rate, self._channels, self._bits)
