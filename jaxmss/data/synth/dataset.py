"""The songs as a data set on disk, in the layout of MUSDB18-HQ: whole or not at all.

Songs are made in a hidden folder within the directory, where an interrupted run goes on; when all are there the splits
are moved to their places, and the description last of all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxmss.audio.aside import reporting
from jaxmss.audio.wav import wav_header
from jaxmss.data.splits import SPLITS
from jaxmss.data.synth.mix import render
from jaxmss.data.synth.score import RATE
from jaxmss.data.synth.workers import run
from jaxmss.errors import InputError
from jaxmss.locking import one_process_at_a_time
from jaxmss.workers import cores

SONGS, SECONDS = 24, 20.0  # the default
VERSION = 1  # of the music: goes up with every change of a sample

_DESCRIPTION = "synth.json"
_ASIDE = ".unfinished"
_LOCK = ".lock"
_SHORTEST, _LONGEST = 3.0, 600.0  # seconds


@dataclass(frozen=True)
class _Plan:
    """Which data set it is, as its description says."""

    seed: int
    songs: int
    seconds: float
    version: int = VERSION

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("songs", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not _SHORTEST <= self.seconds <= _LONGEST:
            raise InputError(f"seconds is {self.seconds}; it must be {_SHORTEST:g} to {_LONGEST:g}")

    def tracks(self) -> list[tuple[str, int]]:
        """Return split and number of every song."""
        counts = (self.songs, max(1, self.songs // 6), max(1, self.songs // 4))
        return [(split, index) for split, count in zip(SPLITS, counts, strict=True) for index in range(count)]


def write(
    directory: Path | str,
    songs: int = SONGS,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
) -> Path:
    """Make songs and store them as ``DIR/{train,valid,test}/<track>/{mixture,drums,bass,other,vocals}.wav``.

    The files are 16-bit stereo at 44.1 kHz; the mixture is the exact sum of the four stems. A song is a function of
    the seed, its length, its split and its number there: neither `songs` nor `processes` changes a byte of it, nor, by
    the same versions of NumPy and SciPy, the machine. A data set that is there already, made with the same arguments,
    is left as it is; one that was interrupted is completed, and one that another process is making is waited for. The
    processes are spawned: a script calls this from under ``if __name__ == "__main__"``.

    Arguments:
        directory: an empty or a new one.
        songs: to train on; a sixth as many are made to validate with and a quarter as many to test with, at least one.
        seconds: of each song, 3 to 600.
        seed: of all that is drawn.
        progress: is called with the number of songs that are done and of all songs, at the start and after each.
        processes: that make songs at once (default: one for each core).

    Returns the directory. Raises `InputError` for arguments out of range, where the directory holds anything else, and
    where it cannot be written.
    """
    directory = Path(directory)
    plan = _Plan(seed, songs, float(seconds))
    if processes is not None and processes < 1:
        raise InputError(f"processes is {processes}; it must be at least 1")
    if _is_complete(directory, plan):
        return directory
    with ExitStack() as held:
        with reporting(directory):
            held.enter_context(one_process_at_a_time(directory / _LOCK))
        if not _is_complete(directory, plan):  # another process may have made it while this one waited
            _write(directory, plan, progress or (lambda done, total: None), processes or cores())
    return directory


def _write(directory: Path, plan: _Plan, progress: Callable[[int, int], None], processes: int) -> None:
    with reporting(directory):
        aside = _begin(directory, plan)
    missing = [track for track in plan.tracks() if not any(_place(d, *track).exists() for d in (aside, directory))]
    done, total = len(plan.tracks()) - len(missing), len(plan.tracks())
    progress(done, total)
    tasks = [(aside, plan, *track) for track in missing]
    for made, _ in enumerate(run(_make, tasks, processes), start=done + 1):
        progress(made, total)
    with reporting(directory):
        _finish(aside, directory)


def _is_complete(directory: Path, plan: _Plan) -> bool:
    """Return whether the data set is there; raise `InputError` where something else is."""
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise InputError(f"{str(directory)!r} is a file; name a directory for the data set")
    begun = _described(directory / _ASIDE) == asdict(plan)  # asked first: another process may finish meanwhile
    if (directory / _DESCRIPTION).exists():
        _check_same(directory, plan)
        return True
    ours = {_ASIDE, _LOCK, *(SPLITS if begun else ())}
    others = sorted(path.name for path in directory.iterdir() if path.name not in ours)
    if others:
        raise InputError(f"{str(directory)!r} holds {others[0]!r} already; name an empty or a new directory")
    return False


def _check_same(directory: Path, plan: _Plan) -> None:
    """Raise `InputError` unless the directory holds this data set and all of its tracks."""
    there = _described(directory)
    for key, value in asdict(plan).items():
        if there.get(key) != value:
            raise InputError(
                f"{str(directory)!r} holds a synthetic data set of {key} {there.get(key)!r}, not {value!r}; "
                "name another directory, or delete it"
            )
    for split, index in plan.tracks():
        if not _place(directory, split, index).is_dir():
            raise InputError(
                f"{str(directory)!r} lacks its track {_name(split, index)!r}; delete what is left of the data "
                "set, and it can be made again"
            )


def _begin(directory: Path, plan: _Plan) -> Path:
    """Return the hidden folder, with what an interrupted run of the same plan has finished."""
    aside = directory / _ASIDE
    if _described(aside) != asdict(plan):
        if aside.exists():
            shutil.rmtree(aside)  # begun with other arguments
        aside.mkdir(parents=True)
        _write_file(aside / _DESCRIPTION, (json.dumps(asdict(plan), indent=2) + "\n").encode())
    for half_written in aside.glob("*/.*"):
        shutil.rmtree(half_written)
    return aside


def _make(aside: Path, plan: _Plan, split: str, index: int) -> None:
    """Make one song; its folder appears when all of its files are written."""
    target = _place(aside, split, index)
    half_written = target.with_name(f".{secrets.token_hex(8)}")
    stems = render(plan.seed, split, index, plan.seconds)
    with reporting(target):
        try:
            half_written.mkdir(parents=True)
            for name, samples in stems.items():
                data = samples.astype("<i2").tobytes()
                _write_file(half_written / f"{name}.wav", wav_header(len(data), RATE, 2, 16) + data)
            os.rename(half_written, target)
        except BaseException:
            shutil.rmtree(half_written, ignore_errors=True)
            raise


def _finish(aside: Path, directory: Path) -> None:
    """Move everything to its place, the description last: it says that all is there."""
    for split in SPLITS:
        if (aside / split).exists():  # else an interrupted run has moved it
            os.rename(aside / split, directory / split)
    os.replace(aside / _DESCRIPTION, directory / _DESCRIPTION)
    aside.rmdir()


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # else a power cut after the renaming could leave an empty file


def _described(directory: Path) -> dict[str, object]:
    """Return what the description in a directory says; nothing where there is none that can be read."""
    try:
        found = json.loads((directory / _DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _place(directory: Path, split: str, index: int) -> Path:
    return directory / split / _name(split, index)


def _name(split: str, index: int) -> str:
    """Return the name of a track, which as in MUSDB18 no track of another split has."""
    return f"{split} song {index + 1:03d}"
