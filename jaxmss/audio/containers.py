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
    """How a container of the RIFF kind lays out its chunks, all lengths in bytes."""

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
    b"\x30\x26\xb2\x75": _Chunks(0, 16, "<q", True, 1),  # ASF
}
SOUND_CHUNKS = {b"data", b"SSND", b"\x36\x26\xb2\x75"}


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes of sound the headers promise beyond the file's end: 0 for a whole file or an unknown format.

    Knows WAV, RF64, W64, AIFF, CAF, AU, MP4 (M4A), Matroska (WebM) and ASF (WMA); an unfinished Ogg stream counts as
    1 byte, as it does not say how many.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    magic = head[:4]
    if magic == b"OggS":
        return int(_is_unfinished_ogg(file, size))
    if magic == b".snd":
        offset, promised = struct.unpack(">II", head[4:].ljust(8, b"\0"))
        return 0 if promised in UNKNOWN_SIZES else max(0, offset + promised - size)
    if magic == b"\x1aE\xdf\xa3":
        return _missing_from_matroska(file, size)
    if head[4:8] == b"ftyp":
        return _missing_from_boxes(file, size)
    return _missing_from_chunks(file, size, _LAYOUTS[magic]) if magic in _LAYOUTS else 0


def _missing_from_chunks(file: BinaryIO, size: int, layout: _Chunks) -> int:
    position = layout.header
    size_64 = None  # RF64 keeps the size of its data in an earlier chunk
    while position <= size:
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
        if name in SOUND_CHUNKS:
            if length == 0xFFFFFFFF and size_64 is not None:
                length = size_64
            return 0 if length in UNKNOWN_SIZES else max(0, start + length - size)
        if length < 0:
            return 0
        position = start + length
        position += -position % layout.alignment
    return 0


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


def _missing_from_boxes(file: BinaryIO, size: int) -> int:
    """MP4: top-level boxes, each its size and its name (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position <= size:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return 0
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            return 0
        position += length
        if head[4:8] in (b"mdat", b"moov", b"moof") and position > size:
            return position - size
    return 0


def _missing_from_matroska(file: BinaryIO, size: int) -> int:
    """Matroska and WebM: a header and one segment, whose sizes are EBML integers (RFC 8794, section 4)."""
    file.seek(4)
    file.seek(min(_ebml_integer(file) or 0, size), os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _ebml_integer(file)
    return 0 if length is None else max(0, file.tell() + length - size)


def _ebml_integer(file: BinaryIO) -> int | None:
    """Read an integer whose leading zero bits count its further bytes; all ones mean unknown."""
    first = int.from_bytes(file.read(1), "big")
    bits = 7 * (9 - first.bit_length())
    value = int.from_bytes(bytes([first]) + file.read(bits // 7 - 1), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def count_mp3_frames(file: BinaryIO) -> int | None:
    """Read how many MPEG frames an MP3 file has from the Xing header in its first one; None where there is none."""
    file.seek(0)
    tag = file.read(10)
    start = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    first_frame = file.read(256)
    is_mpeg = first_frame[:1] == b"\xff" and first_frame[1:2] >= b"\xe0"
    at = max(first_frame.find(name, 0, 64) for name in (b"Xing", b"Info"))
    if not is_mpeg or at < 0 or len(first_frame) < at + 12 or not first_frame[at + 7] & 1:
        return None
    return int.from_bytes(first_frame[at + 8 : at + 12], "big")
