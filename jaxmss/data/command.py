"""What ``jaxmss data check | build | synth`` do and print. Nothing here imports JAX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from jaxmss.data.progress import progress_bar

_HOUR = 3600


def check(root: str, splits: Sequence[str], folders: Sequence[str]) -> int:
    """Print a line for each problem of a data set and a summary; return 1 if one of them is an error, else 0."""
    from jaxmss.data.check import absent, check, find

    found = find(root, splits, folders)
    total = sum(len(tracks) for tracks in found.values())
    errors = warnings = 0
    seconds = 0.0
    with tqdm(total=total, unit="track", disable=not sys.stderr.isatty(), leave=False) as bar:
        for report in chain(() if splits else absent(found), check(found)):
            for problem in report.problems:
                with bar.external_write_mode(sys.stdout):
                    print(f"{report.where}: {problem}".replace("\n", "\\n"), flush=True)
                errors += problem.is_error
                warnings += not problem.is_error
            seconds += report.seconds
            bar.update(report.tracks)
    named = ", ".join(f"{len(tracks)} in {split}" for split, tracks in found.items())
    summary = f"{errors} errors, {warnings} warnings" if errors or warnings else "no problems"
    print(f"{total} tracks ({named}), {seconds / _HOUR:.2f} h: {summary}")
    return 1 if errors else 0


def build(source: Path, destination: str, beam: str | None) -> int:
    """Prepare a data set and tell where it lies; return 0."""
    from jaxmss.data import prepared
    from jaxmss.data.build import build

    options = None if beam is None else [f"--{option.strip()}" for option in beam.split(",") if option.strip()]
    with progress_bar("s") as report:
        directory = build(source, destination, options, report)
    tracks = ", ".join(
        f"{len(prepared.tracks(destination, split))} in {split}" for split in prepared.splits(destination)
    )
    print(f"Wrote {directory}: tracks {tracks}; it reads back equal. Use it by --data.root {destination}")
    return 0


def synth(directory: Path, songs: int, seconds: float, seed: int) -> int:
    """Write the synthetic data set and tell where it lies; return 0."""
    from jaxmss.data import synth

    with progress_bar("song") as report:
        synth.write(directory, songs, seconds, seed, progress=report)
    print(f"Wrote {directory}; use it by --data.root {directory}")
    return 0
