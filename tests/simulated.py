"""Processes with simulated devices, and what crosses between devices in a compiled program."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any


def run(command: list[Any], devices: int) -> str:
    """Run a command whose process has so many devices; return what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


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
