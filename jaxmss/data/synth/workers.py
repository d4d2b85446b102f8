"""Tasks that are shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from jaxmss.errors import InputError
from jaxmss.workers import single_threaded, worker_pool


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
    pool = worker_pool(min(processes, len(tasks)))
    try:
        with single_threaded():  # the first tasks start the processes
            waiting = [pool.submit(function, *task) for task in tasks]
        for made in as_completed(waiting):
            made.result()
            yield
    except BrokenProcessPool as error:
        raise InputError("A process that made songs was killed (out of memory?); start again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)
