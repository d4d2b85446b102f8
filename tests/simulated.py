"""Processes with simulated devices, and what crosses between devices in a compiled program."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def run(command: list[Any], devices: int) -> str:
    """Run a command whose process has so many devices; return what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file or folder that one of the processes that test makes, for which the others wait."""
    folder = factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            make(file)
    return file


def collectives(program: str) -> list[tuple[str, str]]:
    """The shape and the kind of each collective, ``all-reduce`` for instance."""
    return re.findall(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", program)


def computations(program: str) -> dict[str, str]:
    """The text of each computation of a program, by its name."""
    blocks = re.findall(r"^(?:ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)
    return dict(blocks)


def loops(program: str) -> set[str]:
    """The names of the computations that are repeated."""
    return set(re.findall(r"body=%([\w.-]+)", program))
