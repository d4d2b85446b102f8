"""From the files and folders that somebody named to a list of audio files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jaxmss.errors import AudioError

UNCOMPRESSED = {".wav", ".wave", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".caf", ".au"}
LOSSLESS = {".flac", ".alac", ".ape", ".wv", ".tta"}
LOSSY = {".mp3", ".mp2", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".ac3", ".wma", ".mka"}
VIDEO = {".mp4", ".mov", ".mkv", ".webm"}  # .stem.mp4 among them
EXTENSIONS = UNCOMPRESSED | LOSSLESS | LOSSY | VIDEO


def find_audio_files(inputs: Iterable[Path | str]) -> list[Path]:
    """Files as they are given, whatever their names, and each folder's audio files below it, sorted; each file once.

    Hidden files and folders are passed over.

    Raises:
        AudioError: for an input that does not exist, and for a folder without audio.
    """
    found: dict[Path, None] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            inside = sorted(path for path in given.rglob("*") if _is_audio(path, given))
            if not inside:
                raise AudioError(
                    f"{str(given)!r} holds no audio files; name a folder that holds wav, flac, mp3, ... files"
                )
            found.update(dict.fromkeys(inside))
        elif given.exists():
            found[given] = None
        else:
            raise AudioError(f"{str(given)!r} does not exist; check the path")
    return list(found)


def _is_audio(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in EXTENSIONS and path.is_file()
