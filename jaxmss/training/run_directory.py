"""The directory of a run: one process at a time trains in it, always with the same config."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax

from jaxmss.audio.aside import written_aside
from jaxmss.checkpoints import runs
from jaxmss.checkpoints.runs import CHECKPOINTS, CONFIG
from jaxmss.config import from_json, to_json
from jaxmss.errors import InputError
from jaxmss.training.agreement import differing, everywhere, seen_by_all
from jaxmss.training.config import Config

LOCK = "lock"
PACKAGES = ("jaxmss", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# what may be another when a run goes on: how long, where and how fast, but not what is learned from what
FREE = (
    "hours",
    "data.root",
    "data.threads",
    "optim.give_up_after",
    "compute.remat",
    "compute.fsdp",
    "checkpoints",
    "validation.every",
    "validation.excerpts",
    "watch",
)


@contextmanager
def claimed(directory: Path, config: Config) -> Iterator[None]:
    """Hold a run's directory: make it with its config, or take up the run that is there if it has the same config.

    Every process of a run calls this; process 0 looks and writes. A run without a checkpoint is begun anew, with any
    config, if its own can be read. Raises `InputError`, in all processes, if the directory holds another run, with the
    fields that differ (those in `FREE` may), or anything else, if another process trains there, or if the processes do
    not share it.
    """
    with ExitStack() as held:
        with everywhere(InputError(f"Process 0 cannot train in {directory}; it says why")):
            if jax.process_index() == 0:
                try:
                    _prepare(directory, held)
                    _note(directory, config)
                except OSError as error:
                    raise InputError(f"The run {directory} cannot be written: {error.strerror or error}") from None
        elsewhere = f"{directory} is not the same folder for all processes; name one by --run that all hosts share"
        seen_by_all(lambda: _start(directory / CONFIG), InputError(elsewhere))
        yield


def _prepare(directory: Path, held: ExitStack) -> None:
    """Make and lock the directory, unless it holds something else than a run."""
    if directory.parts[:1] == ("gs:",):
        raise InputError(f"--run {directory} is a bucket; name a folder, of a file system that all hosts share")
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(f"--run {str(directory)!r} is not UTF-8, which Orbax cannot write; name another") from None
    directory.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in directory.iterdir() if path.name != LOCK and not path.name.endswith(".part")]
    if others and CONFIG not in others:
        raise InputError(f"{directory} is no run, but holds {others[0]}; name a new directory")
    held.enter_context(_locked(directory / LOCK))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file. The system lets go of it when the process ends, however it ends."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{path.parent} is being trained in by {file.read() or 'another process'}; stop it, or name another "
                "directory"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _note(directory: Path, config: Config) -> None:
    """Write the config into the directory, after comparing it with the one that is there."""
    path = directory / CONFIG
    before = _read(path) if path.exists() else config
    fields = differing(before, config, FREE)
    if fields and runs.is_run(directory) and runs.steps(directory):
        raise InputError(
            f"{directory} holds a run of another config: {', '.join(fields)}; "
            "go on with the same config, or name a new directory"
        )
    noted = {"config": to_json(config), "versions": _versions(), "start": secrets.token_hex(8)}
    with written_aside([path]) as [file]:
        file.write((json.dumps(noted, indent=2) + "\n").encode())
    (directory / CHECKPOINTS).mkdir(exist_ok=True)


def _start(path: Path) -> str | None:
    """Return what tells the last start of a run from all others; None if it cannot be read."""
    try:
        return json.loads(path.read_text())["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> Config:
    try:
        return from_json(Config, json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the config of a run ({error}); name a new directory") from None


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on, and the commit in a checkout."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    checkout = Path(__file__).parents[2]
    if (checkout / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        versions["commit"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return versions
