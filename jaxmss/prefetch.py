"""Run an iterator ahead of its consumer in a thread, so that reading, computing and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
_END = object()
_STOPPED: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)  # of the thread that this is


class _Stopped(Exception):
    """Nobody wants what this thread is making."""


@contextmanager
def prefetch(items: Iterable[Item], ahead: int) -> Iterator[Iterator[Item]]:
    """Yield an iterator over `items` that holds up to `ahead` of them ready.

    What `items` raises is raised where it is consumed. Leaving the context stops the thread at its next item, or
    where that takes its own from a `prefetch` or by `while_wanted`, and closes `items` there if it is a generator.
    """
    # Ctrl-C in a bounded queue may leave its lock taken for ever; simple queues stay in order
    ready: queue.SimpleQueue = queue.SimpleQueue()
    room: queue.SimpleQueue = queue.SimpleQueue()  # holds an entry for each item that `ready` may yet take
    for _ in range(max(ahead, 1)):
        room.put(None)
    stopped = threading.Event()

    def put(entry: object) -> None:
        room.get()
        ready.put(entry)

    def produce() -> None:
        _STOPPED.set(stopped)
        if stopped.is_set():  # by Ctrl-C, before the thread had begun and could be waited for
            return
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((_END, None))
        except BaseException as error:  # handed over, not swallowed
            put((_END, error))
        finally:
            if isinstance(items, Generator):
                items.close()  # now, not when it is collected: a thread of its own may be using an open file

    def consume() -> Iterator[Item]:
        while True:
            _check_wanted()
            item, error = ready.get()
            room.put(None)
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=produce, daemon=True)
    try:
        thread.start()
        yield consume()
    finally:
        stopped.set()
        room.put(None)  # wakes the thread if it waits, and then it looks at `stopped`
        if thread.is_alive():
            thread.join()


def while_wanted(items: Iterable[Item]) -> Iterator[Item]:
    """Yield `items`; in the thread of a `prefetch` that nobody consumes any more, stop it instead."""
    for item in items:
        _check_wanted()
        yield item


def _check_wanted() -> None:
    stopped = _STOPPED.get()
    if stopped is not None and stopped.is_set():
        raise _Stopped
