"""The errors a caller can mend: each message is one line that says what, where, the value and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the caller handed over cannot be used. The command line prints the message and exits with status 2."""


class AudioError(InputError):
    """An audio file that cannot be read or written, or audio that cannot be separated."""


class CheckpointError(InputError):
    """A checkpoint that is damaged, hostile, or of another architecture."""


class DownloadError(InputError):
    """Published weights that cannot be fetched."""


def memory_is_full(error: Exception) -> bool:
    """Return whether an array, or what a program works with, was larger than the memory of this machine or a device."""
    import jax

    of_device = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return of_device or isinstance(error, MemoryError)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: ``; did you mean X?`` for the nearest of `known`, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(known)}"
