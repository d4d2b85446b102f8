"""Processes of one thread each that share out work. Nothing here imports JAX."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool that leaves Ctrl-C to this process, so that work under way is finished, and does not outlive it.

    Its processes start when it is first given work: see `single_threaded`.
    """
    # not forked: the threads of JAX, which the caller may have imported, would not survive it
    return ProcessPoolExecutor(processes, get_context("spawn"), initializer=_start_worker)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Have the processes that are started in the body compute in one thread each."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
