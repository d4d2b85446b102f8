"""What programs print, whose reader may have read enough. Nothing here imports JAX."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    """Print a line at once, and no more when nobody reads them (as after ``| head``): the work goes on."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        close_output()


def close_output() -> None:
    """Have what is still to be printed go nowhere, lest it fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """Return a duration in the two units that matter, such as ``3 h 12 min``."""
    whole = round(seconds)
    for unit, name, inner, inner_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // inner} {inner_name}"
    return f"{whole} s"
