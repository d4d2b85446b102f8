"""One process at a time, by a file that the system itself locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_process_at_a_time(lock: Path) -> Iterator[None]:
    """Make the lock file, wait until no other process holds it, and remove it at the end.

    Its folder is made if need be. The system lets go of the lock when the process ends, however it ends. Raises
    `OSError` where it cannot be made.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _lies_at(lock, file.fileno()):
                continue  # whoever held it has removed it, and another process may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _lies_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
