"""What a file's own headers promise, to tell a file that was cut short from one that is whole.

Decoders hide this: libsndfile quietly corrects the length of a cut WAV file, FFmpeg stops early without a word.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

UNKNOWN_SIZES = {0xFFFFFFFF, 0x7FFFF000, -1}  # what programs that write to a pipe leave: FFmpeg, SoX, CAF's own sign
LARGEST_OGG_PAGE = 65307


class _Chunks(NamedTuple):
    """How a container of the RIFF kind lays out its chunks; sizes are in bytes."""

    header: int
    name: int
    size: str  # struct format of a chunk's size
    counts_itself: bool  # whether that size includes the chunk's name and size
    alignment: int


_RIFF = _Chunks(12, 4, "<I", False, 2)
_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _Chunks(12, 4, ">I", False, 2),
    b"FORM": _Chunks(12, 4, ">I", False, 2),
    b"riff": _Chunks(40, 16, "<q", True, 8),
    b"caff": _Chunks(8, 4, ">q", False, 1),
}


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes of sound the headers promise beyond the file's end: 0 for a whole file or an unknown format.

    Knows WAV, RF64, W64, AIFF, CAF and AU; an unfinished Ogg stream counts as 1 byte, as it does not say how many.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return int(_is_unfinished_ogg(file, size))
    if magic == b".snd":
        offset, promised = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return 0 if promised in UNKNOWN_SIZES else max(0, offset + promised - size)
    if magic not in _LAYOUTS:
        return 0
    return _missing_from_chunks(file, size, _LAYOUTS[magic])


def _missing_from_chunks(file: BinaryIO, size: int, layout: _Chunks) -> int:
    position = layout.header
    size_64 = None  # RF64 keeps the size of its data in an earlier chunk
    while True:
        file.seek(position)
        head = file.read(layout.name + struct.calcsize(layout.size))
        if len(head) < layout.name + struct.calcsize(layout.size):
            return 0
        name = head[:4]
        (length,) = struct.unpack(layout.size, head[layout.name :])
        if layout.counts_itself:
            length -= len(head)
        start = position + len(head)
        if name == b"ds64":
            (size_64,) = struct.unpack("<Q", file.read(16).ljust(16, b"\0")[8:])
        if name in (b"data", b"SSND"):
            if length == 0xFFFFFFFF and size_64 is not None:
                length = size_64
            return 0 if length in UNKNOWN_SIZES else max(0, start + length - size)
        if length < 0:
            return 0
        position = start + length
        position += -position % layout.alignment


def _is_unfinished_ogg(file: BinaryIO, size: int) -> bool:
    """Whether the last page is incomplete or does not say that the stream ends (RFC 3533, section 6)."""
    file.seek(max(0, size - 2 * LARGEST_OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27:
        return True
    segments = page[26]
    length = 27 + segments + sum(page[27 : 27 + segments])
    last_of_stream = bool(page[5] & 4)
    return len(page) < length or not last_of_stream


def mp3_promises_length(file: BinaryIO) -> bool:
    """Whether an MP3 file's first frame counts the frames; without that count a decoder can but guess the duration."""
    file.seek(0)
    tag = file.read(10)
    start = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    head = file.read(256)
    for name in (b"Xing", b"Info"):
        at = head.find(name)
        if 0 <= at <= 200:
            return bool(head[at + 7] & 1)
    return False
