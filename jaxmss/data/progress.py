"""A progress bar for what tells how much of it is done. Nothing here imports JAX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(unit: str, description: str | None = None) -> Iterator[Callable[[float, float], None]]:
    """Yield what shows progress on a terminal when it is told how much is done, and of how much."""
    with tqdm(unit=unit, desc=description, disable=not sys.stderr.isatty(), leave=False) as bar:

        def report(done: int | float, total: int | float) -> None:
            bar.total = round(total)
            bar.update(int(done) - bar.n)

        yield report
