"""Evaluation by several processes, on one host or many: each takes a share of the tracks, the first one reports.

They share the output folder, in which all of them write the tracks they have scored, and JAX's coordinator, through
which they hear of each other. JAX itself would take all of them down when one is lost.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax._src.distributed import global_state  # nothing public leads to the coordinator's notes
from jax._src.xla_bridge import backends_are_initialized

from jaxmss.data.tracks import Track
from jaxmss.training import distributed
from jaxmss.training.distributed import NEVER

_BEAT = 5.0  # seconds between two signs of life
_LOST = 60.0  # seconds without one


def join() -> None:
    """Find the other processes, and give them signs of life from now on. To be called before JAX is used.

    Raises `InputError` as `initialize` does.
    """
    distributed.initialize(heartbeat_timeout=NEVER)
    if jax.process_count() > 1:
        threading.Thread(target=_beat, daemon=True).start()


def reports() -> bool:
    """Tell whether it is for this process to report."""
    return jax.process_index() == 0


def share(tracks: Sequence[Track], process: int | None = None) -> Sequence[Track]:
    """Return the tracks of a process, or of this one: one of every so many, so that shares are of one size."""
    return tracks[jax.process_index() if process is None else process :: jax.process_count()]


class Meetings:
    """Where processes wait for each other and tell what they have.

    Attributes:
      lost: why each process that is not waited for any more is not.
    """

    def __init__(self) -> None:
        self.lost: dict[int, str] = {}

    def merge(self, mine: Mapping[str, str], name: str) -> dict[str, str]:
        """Wait until each process has come to the meeting of this name or is lost; return what all of them brought."""
        if jax.process_count() == 1:
            return dict(mine)
        _write(f"{name}/{jax.process_index()}", json.dumps(mine))
        merged: dict[str, str] = {}
        for process in range(jax.process_count()):
            if process not in self.lost:
                merged |= self._brought(process, name)
        return merged

    def _brought(self, process: int, name: str) -> dict[str, str]:
        heart = _Heart(process)
        while (brought := _read(f"{name}/{process}")) is None:
            if (why := heart.stopped()) is not None:
                self.lost[process] = f"{why}; run again with the same output to score what is left"
                return {}
            time.sleep(1.0)
        return json.loads(brought)


def leave(status: int) -> None:
    """End this process, if it is one of several. JAX's own way would wait for lost ones and then abort the others."""
    if not backends_are_initialized():  # it never met the others
        distributed.leave(status)
    if global_state.client is None or jax.process_count() == 1:
        return
    _write(f"ended/{jax.process_index()}", str(status))
    hearts = [_Heart(process) for process in range(jax.process_count()) if process != jax.process_index()]
    until = time.monotonic() + (_LOST if status < 2 else 2 * _BEAT)
    while jax.process_index() == 0 and any(heart.stopped() is None for heart in hearts) and time.monotonic() < until:
        time.sleep(0.1)  # with this process the coordinator goes, and JAX aborts whoever is left
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class _Heart:
    """Whether another process is alive, by its signs of life from now on."""

    def __init__(self, process: int):
        self._process = process
        self._beat, self._since = _read(f"beat/{process}"), time.monotonic()

    def stopped(self) -> str | None:
        """Return why the process is not to be waited for, or None."""
        told = f"Process {self._process} of {jax.process_count()}"
        if (status := _read(f"ended/{self._process}")) is not None:
            return f"{told}, whose track it was, ended with status {status}"
        if (beat := _read(f"beat/{self._process}")) != self._beat:
            self._beat, self._since = beat, time.monotonic()
        silent = time.monotonic() - self._since
        return f"{told}, whose track it was, has not been heard of for {silent:.0f} s" if silent > _LOST else None


def _beat() -> None:
    for count in range(NEVER):
        _write(f"beat/{jax.process_index()}", str(count))
        time.sleep(_BEAT)


def _write(key: str, value: str) -> None:
    _notes().key_value_set(f"jaxmss/eval/{key}", value, allow_overwrite=True)


def _read(key: str) -> str | None:
    try:
        return _notes().key_value_try_get(f"jaxmss/eval/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return None


def _notes() -> Any:
    return global_state.client
