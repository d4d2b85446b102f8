"""What must be the same in all processes of a run, and each time that it is started."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmss.config import from_json, to_json
from jaxmss.errors import InputError
from jaxmss.training.config import Config

Seen = TypeVar("Seen")

OWN = ("data.root", "data.threads")  # what each process may have of its own
SEEN_WITHIN = 90  # seconds; network file systems keep what they know of a folder for up to 60


@contextmanager
def everywhere(elsewhere: InputError) -> Iterator[None]:
    """Let no process wait for one that has failed: if the body raises `InputError` in any of them, raise it in all.

    Processes in which it did not fail raise `elsewhere`.
    """
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    if not multihost_utils.process_allgather(np.array(failure is None)).all():
        raise failure or elsewhere


def same_config(config: Config) -> None:
    """Raise `InputError` in all processes if one was started with another config than process 0, with its fields."""
    first, *others = (from_json(Config, json.loads(text)) for text in gathered(json.dumps(to_json(config))))
    for process, other in enumerate(others, start=1):
        if fields := differing(first, other, OWN):
            raise InputError(
                f"Process {process} was started with another config than process 0: {', '.join(fields)}; "
                "start all with the same"
            )


def same_songs(fingerprint: str, tracks: Sequence[str]) -> None:
    """Raise `InputError` in all processes if the songs, or the validation tracks, of one are not those of process 0."""
    names = zlib.crc32(repr(list(tracks)).encode())
    first, *others = gathered(f"{fingerprint}; to validate on {len(tracks)}, {names:08x}")
    for process, other in enumerate(others, start=1):
        if other != first:
            raise InputError(
                f"The songs that process {process} finds ({other}) are not those of process 0 ({first}); copy the same "
                "data to all hosts"
            )


def seen_by_all(look: Callable[[], Seen], elsewhere: InputError) -> Seen:
    """Return what all processes see when they see what process 0 sees: other hosts may do so a minute late.

    Raises `elsewhere`, in all of them, if one does not after `SEEN_WITHIN` seconds.
    """
    seen, until = look(), time.monotonic() + SEEN_WITHIN
    first = gathered(repr(seen))[0]
    while repr(seen) != first and time.monotonic() < until:
        time.sleep(0.5)
        seen = look()
    with everywhere(elsewhere):
        if repr(seen) != first:
            raise elsewhere
    return seen


def differing(before: Config, after: Config, free: Sequence[str]) -> list[str]:
    """Return the fields that differ and are not, nor lie within, one of `free`, as ``optim.lr 0.001 -> 0.0005``."""
    old, new = _flat(to_json(before)), _flat(to_json(after))
    return [
        f"{name} {old.get(name)} -> {new.get(name)}"
        for name in {**old, **new}
        if old.get(name) != new.get(name) and not any(f"{name}.".startswith(f"{one}.") for one in free)
    ]


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {name: values}
    return {
        inner: value
        for key, part in values.items()
        for inner, value in _flat(part, f"{name}.{key}" if name else key).items()
    }


def gathered(text: str) -> list[str]:
    """Return the text of each process, in all of them."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.array(len(data))))
    padded = np.pad(data, (0, int(lengths.max()) - len(data)))
    rows = np.reshape(multihost_utils.process_allgather(padded), (jax.process_count(), -1))
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]
