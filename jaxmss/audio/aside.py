"""Files that appear under their names complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jaxmss.errors import AudioError

_ADVICE = {
    errno.ENOENT: "create the directory first",
    errno.ENOTDIR: "name a directory that exists",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory that you may write to",
    errno.EROFS: "choose a directory that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "choose another name",
    errno.EEXIST: "choose another name",
}
_MAKE_ROOM = "free some space or choose another directory"


@contextmanager
def written_aside(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open one hidden temporary file beside each path; rename them all to the paths once the body has ended well.

    If the body raises, or one file cannot be completed or renamed, none of the new files stays. The body's own errors
    pass unchanged: whoever writes wraps its writing in `reporting`.

    Raises:
        AudioError: if a path is a directory, or its directory is missing, unwritable or full.
    """
    temporary: list[Path] = []
    files: list[BinaryIO] = []
    placed: list[Path] = []
    try:
        for path in paths:
            with reporting(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                # a name of its own length, for a long name with a suffix could exceed the file system's limit
                beside = path.parent / f".jaxmss-{secrets.token_hex(8)}.part"
                temporary.append(beside)  # first, lest Ctrl-C between the two leave a file behind
                files.append(beside.open("x+b"))
        yield files
        for path, file in zip(paths, files, strict=True):
            with reporting(path):
                file.flush()
                os.fsync(file.fileno())  # else a power cut after the rename could leave an empty file
                file.close()
        for path, beside in zip(paths, temporary, strict=True):
            with reporting(path):
                os.replace(beside, path)
                placed.append(path)
    except BaseException:
        for file in files:
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                file.close()
        for path in [*temporary, *placed]:
            with suppress(OSError):  # it may never have come to exist
                path.unlink()
        raise


@contextmanager
def reporting(path: os.PathLike) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into an AudioError of one line that says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, _MAKE_ROOM)
        raise AudioError(f"{os.fspath(path)!r} cannot be written: {error.strerror or error}; {advice}") from error
