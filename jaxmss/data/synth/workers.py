"""Processes that share out independent tasks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from jaxmss.errors import InputError

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[..., None], tasks: Sequence[tuple], processes: int) -> Iterator[None]:
    """Call `function` with each task's arguments, in so many processes, and yield when one is done.

    What a task raises is raised here, when the tasks that are under way have ended. Raises `InputError` if a process
    is killed.
    """
    if processes == 1 or len(tasks) <= 1:
        for task in tasks:
            function(*task)
            yield
        return
    # not forked: the threads of JAX, which the caller may have imported, would not survive it
    pool = ProcessPoolExecutor(min(processes, len(tasks)), get_context("spawn"), initializer=_start_worker)
    try:
        with _environment(_ONE_THREAD):  # the first tasks start the processes
            waiting = [pool.submit(function, *task) for task in tasks]
        for made in as_completed(waiting):
            made.result()
            yield
    except BrokenProcessPool as error:
        raise InputError("A process that made songs was killed (out of memory?); start again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, which lets songs be finished, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in the body."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
