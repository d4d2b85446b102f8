"""Training in processes that may be killed: real ones, forked from a server that has imported the package once."""

from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONFIG = """
import json

from jaxmss.config import from_json
from jaxmss.training.config import Config

def get_config() -> Config:
    return from_json(Config, json.loads({values!r}))
"""


def write_config(path: Path, values: dict) -> None:
    """Write a config file for `train.py` that gives the config with these values."""
    path.write_text(_CONFIG.format(values=json.dumps(values)))


def start(config: Path, run: Path, output: Path) -> BaseProcess:
    """Start what `train.py CONFIG --run RUN` does; what it prints is added to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jaxmss.training.loop", __name__])
    process = context.Process(target=_train, args=([str(config), "--run", str(run)], output))
    process.start()
    return process


def _train(arguments: list[str], output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)

    from jaxmss.training.command import main

    main(arguments)
