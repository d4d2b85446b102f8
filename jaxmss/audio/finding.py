"""From the files and folders that somebody named to a list of audio files."""

from __future__ import annotations

import os
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

    Hidden files and folders are passed over. An inner folder that cannot be read is among what is returned, as is a
    link to nowhere, for `open_audio` to tell.

    Raises:
        AudioError: for an input that does not exist or cannot be looked at, and for a folder without audio.
    """
    found: dict[Path, None] = {}
    for given in map(Path, inputs):
        try:
            is_folder, exists = given.is_dir(), given.exists()
        except OSError as error:
            raise AudioError(f"{str(given)!r} cannot be read: {error.strerror}; check the path") from error
        if is_folder:
            inside = sorted(_audio_inside(given))
            if not inside:
                raise AudioError(
                    f"{str(given)!r} holds no audio files; name a folder that holds wav, flac, mp3, ... files"
                )
            found.update(dict.fromkeys(inside))
        elif exists:
            found[given] = None
        else:
            raise AudioError(f"{str(given)!r} does not exist; check the path")
    return list(found)


def _audio_inside(folder: Path) -> list[Path]:
    unreadable: list[OSError] = []
    found = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in EXTENSIONS]
    return found + [Path(error.filename) for error in unreadable]
