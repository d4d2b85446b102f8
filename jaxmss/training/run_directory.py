"""The directory of a run: one process at a time trains in it, always with the same config."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmss.audio.aside import written_aside
from jaxmss.checkpoints.runs import CHECKPOINTS, CONFIG
from jaxmss.config import from_json, to_json
from jaxmss.errors import InputError
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

    Every process of a run calls this; process 0 looks and writes. Raises `InputError` if the directory holds another
    run, with the fields that differ (those in `FREE` may), or anything else, or if another process trains there.
    """
    refusal = None
    with ExitStack() as held:
        if jax.process_index() == 0:
            try:
                _prepare(directory, held)
                _note(directory, config)
            except OSError as error:
                refusal = InputError(f"The run {directory} cannot be written: {error.strerror or error}")
            except InputError as error:
                refusal = error
        if not multihost_utils.process_allgather(np.array(refusal is None)).all():
            raise refusal or InputError(f"Process 0 cannot train in {directory}; it says why")
        yield


def _prepare(directory: Path, held: ExitStack) -> None:
    """Make and lock the directory, unless it holds something else than a run."""
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
    if path.exists():
        differing = _differing(_read(path), config)
        if differing:
            raise InputError(
                f"{directory} holds a run of another config: {', '.join(differing)}; "
                "go on with the same config, or name a new directory"
            )
    content = json.dumps({"config": to_json(config), "versions": _versions()}, indent=2) + "\n"
    with written_aside([path]) as [file]:
        file.write(content.encode())
    (directory / CHECKPOINTS).mkdir(exist_ok=True)


def _read(path: Path) -> Config:
    try:
        return from_json(Config, json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the config of a run ({error}); name a new directory") from None


def _differing(earlier: Config, now: Config) -> list[str]:
    """Return the fields that differ and may not, as ``optim.lr 0.001 -> 0.0005``."""
    before, after = _flat(to_json(earlier)), _flat(to_json(now))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in names
        if not any(f"{name}.".startswith(f"{free}.") for free in FREE)
    ]


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {name: values}
    return {
        inner: value
        for key, part in values.items()
        for inner, value in _flat(part, f"{name}.{key}" if name else key).items()
    }


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on, and the commit in a checkout."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    checkout = Path(__file__).parents[2]
    if (checkout / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        versions["commit"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return versions
