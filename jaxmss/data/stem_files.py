"""MUSDB18's .stem.mp4 files, decoded once into the user's cache: AAC cannot be read at random places in no time.

A song of four minutes takes 42 MB a stem, the training tracks of MUSDB18 17 GB. Nothing here imports JAX.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jaxmss.audio.wav import WavFile
from jaxmss.checkpoints.download import cache_directory
from jaxmss.data.clips import to_pcm
from jaxmss.data.tracks import STEM_FILE, STREAMS, decode_stream
from jaxmss.errors import AudioError, InputError
from jaxmss.locking import one_process_at_a_time


def decode(path: Path, stems: Iterable[str]) -> dict[str, Path]:
    """Return a 16-bit WAV file for each of these stems, decoded unless the cache has it already.

    A file that changes is decoded anew. Raises `InputError` for a stem that such files do not have, a damaged file,
    and a cache that cannot be written; nothing half-written is left.
    """
    stems = tuple(stems)
    if unknown := [stem for stem in stems if stem not in STREAMS]:
        raise AudioError(f"{str(path)!r} lacks {', '.join(unknown)}: a {STEM_FILE} holds {', '.join(STREAMS)}")
    try:
        state = path.stat()
        version = hashlib.sha256(f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}".encode()).hexdigest()[:16]
        folder = cache_directory() / "decoded" / f"{path.name.removesuffix(STEM_FILE)}-{version}"
        files = {stem: folder / f"{stem}.wav" for stem in stems}
        if not all(file.exists() for file in files.values()):
            with one_process_at_a_time(folder / ".lock"):
                for stem, file in files.items():
                    if not file.exists():
                        _write(file, path, STREAMS.index(stem))
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be decoded into {str(cache_directory())!r}: {error.strerror}; "
            "make room there, or set JAXMSS_CACHE to another directory"
        ) from error
    return files


def _write(target: Path, path: Path, index: int) -> None:
    """Decode one stream. The file has its name only once it is whole."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as folder:
        part = Path(folder) / target.name
        with part.open("w+b") as file:
            wav = None
            for block, rate in decode_stream(path, index):
                wav = wav or WavFile(file, rate, len(block), 16)
                wav.write(to_pcm(block.T).tobytes())
            if wav:
                wav.finish()
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
