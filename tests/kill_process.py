"""Training in processes that may be killed: real ones, forked from a server that has imported the package once."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import recordings
import tiny_run

from jaxmss.checkpoints import runs
from jaxmss.training.config import Checkpoints, Config, Data, Optim, Validation, Watch
from jaxmss.training.watching import METRICS, read_metrics

EVERY, STEPS = 5, 100
PATIENCE = 120  # seconds for what takes a few

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


def config(data: Path) -> Config:
    """Training whose steps take milliseconds, each of them noted."""
    network = replace(tiny_run.config().model, sample_rate=recordings.RATE, n_fft=64, hop=16)
    settings = tiny_run.config(
        model=network,
        data=Data(root=str(data), batch=2, seconds=1.0, threads=2),
        optim=Optim(warmup=0.01),
        checkpoints=Checkpoints(every=EVERY, keep=2),
        validation=Validation(every=0),
        watch=Watch(every=1),
    )
    return lasting(settings, STEPS)


def lasting(settings: Config, steps: int) -> Config:
    """The same training for so many steps."""
    return replace(settings, hours=steps * settings.data.batch * settings.data.seconds / 3600)


@dataclass
class Run:
    """A run that is started, killed and started again.

    Attributes:
      config: file of its config.
      directory: of the run.
      told: every loss that was ever noted for a step.
      ended: exit status of each process.
    """

    config: Path
    directory: Path
    told: dict[int, set[float]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.directory.with_suffix(".log")

    def start(self) -> BaseProcess:
        return start(self.config, self.directory, self.output)

    def end(self, process: BaseProcess) -> None:
        """Wait until the process has ended, and note what it leaves."""
        process.join(PATIENCE)
        assert process.exitcode is not None, self.output.read_text()
        self.ended.append(process.exitcode)
        for step, loss in self.losses():
            self.told.setdefault(step, set()).add(loss)

    def losses(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in read_metrics(self.directory) if "loss" in line]

    def last_step(self) -> int:
        return max((step for step, _ in self.losses()), default=0)

    def checkpoint(self) -> int:
        return max(runs.steps(self.directory), default=0) if runs.is_run(self.directory) else 0

    def saving(self) -> bool:
        return any((self.directory / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    def wait_for_steps(self, count: int, process: BaseProcess) -> None:
        """Wait until the process has taken so many steps."""
        first, metrics = self.checkpoint(), self.directory / METRICS
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        wait(lambda: metrics.exists() and metrics.stat().st_mtime_ns > before, process)  # it drops lines at first
        wait(lambda: self.last_step() >= first + count, process)

    def wait_for_save(self, process: BaseProcess) -> None:
        """Wait until a checkpoint is being written."""
        self.wait_for_steps(1, process)  # by then the last process's are gone
        wait(self.saving, process)


def wait(condition: Callable[[], bool], process: BaseProcess) -> None:
    until = time.monotonic() + PATIENCE
    while not condition() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)
