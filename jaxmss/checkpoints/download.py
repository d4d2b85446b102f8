"""Fetch a published file once into the user's cache: resumed after a break, checked, never half there.

The bytes are collected in `<target>.part`; beside it `<target>.part.version` keeps the server's name for this version
of the file (ETag or Last-Modified), so that a later run continues only what is still the same file. Both are replaced
by the target in one step when length and hash are right.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (range requests).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from jaxmss.errors import DownloadError
from jaxmss.locking import one_process_at_a_time

_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each new attempt
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_TRANSIENT = {408, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """The connection broke: another attempt may continue."""


def cache_directory() -> Path:
    """Return where downloads are kept: `$JAXMSS_CACHE`, else `$XDG_CACHE_HOME/jaxmss`, else `~/.cache/jaxmss`."""
    if own := os.environ.get("JAXMSS_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "jaxmss"


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Return `target`, downloaded from `url` unless it is already there.

    Several processes may ask for the same target at once: one downloads, the others wait for it.

    Args:
      url: an http or https address.
      target: the file to make; its directory is made if needed.
      size: the length in bytes that the file must have, if it is known.
      md5: the hexadecimal hash that the file must have, if it is known.
      sha256: the same.
      progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
      DownloadError: if the file cannot be fetched, is not the expected one, or cannot be written. What has arrived is
        kept for the next call, except where it has the wrong hash.
    """
    if target.exists():
        return target
    try:
        with one_process_at_a_time(target.with_name(f"{target.name}.lock")):
            if not target.exists():  # another process may have made it while this one waited
                download = _Download(url, target, size, progress)
                download.run()
                download.check({"md5": md5, "sha256": sha256})
                download.finish()
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or target}: {error.strerror}; "
            "make room there, or set JAXMSS_CACHE to another directory"
        ) from error
    return target


class _Download:
    """One file on its way. Anything it raises but DownloadError and _Interrupted comes from the local disk."""

    def __init__(self, url: str, target: Path, size: int | None, progress: bool):
        self.url = url
        self.target = target
        self.size = size
        self.hide_progress = not (progress and sys.stderr.isatty())
        self.part = target.with_name(f"{target.name}.part")
        self.version = target.with_name(f"{target.name}.part.version")
        self.reached = False  # whether the server has answered yet

    def run(self) -> None:
        """Collect the whole file in `part`."""
        for pause in (*_PAUSES, None):
            try:
                return self.attempt()
            except _Interrupted as error:
                if pause is None:
                    raise self.failed(f"the connection broke {len(_PAUSES) + 1} times ({error})") from error
                time.sleep(pause)

    def attempt(self) -> None:
        """Fetch what is missing, over one connection."""
        with self.open() as response:
            start = self.start_of(response)
            total = None if response.length is None else start + response.length
            if self.size is not None and total not in (None, self.size):
                raise self.failed(f"the server has {total:,} bytes, but the published file {self.size:,}")
            if start == 0:
                self.begin(response)
            bar = tqdm(
                desc=self.target.name, initial=start, total=total, unit="B", unit_scale=True, disable=self.hide_progress
            )
            with bar, self.part.open("ab") as file:
                for chunk in _chunks(response):
                    file.write(chunk)
                    bar.update(len(chunk))
                os.fsync(file.fileno())
        arrived = self.part.stat().st_size
        if total is not None and arrived < total:
            raise _Interrupted(f"after {arrived:,} of {total:,} bytes")

    def open(self) -> http.client.HTTPResponse:
        """Ask the server for the file, or for the rest of it."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "jaxmss", "Accept-Encoding": "identity"})
        if arrived := self.arrived():
            request.add_header("Range", f"bytes={arrived}-")
            request.add_header("If-Range", self.noted())
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT)
            self.reached = True
            return response
        except urllib.error.HTTPError as error:
            self.reached = True
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.discard()
                raise _Interrupted("the file on the server is shorter than what has arrived") from error
            if error.code in _TRANSIENT:
                raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
            raise self.failed(f"the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            if self.reached:
                raise _Interrupted(str(error.reason)) from error
            raise self.failed(f"no connection ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"{type(error).__name__}: {error}") from error

    def arrived(self) -> int:
        """Return the number of bytes of an earlier attempt that can be continued."""
        return self.part.stat().st_size if self.part.exists() and self.noted() else 0

    def noted(self) -> str:
        """Return the version of what has arrived, or nothing where the note is missing or damaged."""
        try:
            note = self.version.read_text("ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""
        return note if note.isprintable() else ""

    def start_of(self, response: http.client.HTTPResponse) -> int:
        """Return at which byte of the file the response starts: 0, or where the earlier attempt ended."""
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            return 0
        arrived = self.arrived()
        matched = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
        # A server that heeds Range but not If-Range sends the rest of another version.
        if not matched or int(matched[1]) != arrived or _version(response) not in ("", self.noted()):
            self.discard()
            raise _Interrupted("the file on the server has changed")
        return arrived

    def begin(self, response: http.client.HTTPResponse) -> None:
        """Forget an earlier attempt, and note which version of the file this one fetches."""
        self.discard()
        if version := _version(response):
            self.version.write_text(version)
        self.part.touch()

    def check(self, hashes: dict[str, str | None]) -> None:
        """Compare the length and the hashes of the part with what was published."""
        problems = []
        arrived = self.part.stat().st_size
        if self.size is not None and arrived != self.size:
            problems.append(f"it has {arrived:,} bytes instead of {self.size:,}")
        for algorithm, expected in hashes.items():
            if expected is not None:
                with self.part.open("rb") as file:
                    found = hashlib.file_digest(file, algorithm).hexdigest()
                if found != expected.lower():
                    problems.append(f"its {algorithm} is {found} instead of {expected}")
        if problems:
            self.discard()
            raise self.failed(f"what arrived is not the published file ({'; '.join(problems)}) and was removed")

    def finish(self) -> None:
        """Put the file in its place."""
        self.part.replace(self.target)
        self.version.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what has arrived. The part goes first: it must never be taken for another version."""
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def failed(self, why: str) -> DownloadError:
        """Return the error that says what to do instead."""
        line = " ".join(why.split())
        return DownloadError(
            f"cannot fetch {self.url}: {line}; try again, or fetch it by hand and put it at {self.target}"
        )


def _version(response: http.client.HTTPResponse) -> str:
    """Return what identifies this version of the file in If-Range, or an empty string."""
    etag = response.headers["ETag"] or ""
    return etag if etag.startswith('"') else response.headers["Last-Modified"] or ""


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"{type(error).__name__}: {error}") from error
        if not chunk:
            return
        yield chunk
