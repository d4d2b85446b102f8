"""Training is killed again and again, by real signals at random moments, and must end as if it never had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax
import kill_process
import pytest
import recordings
import tiny_run

from jaxmss.checkpoints import runs
from jaxmss.config import to_json
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Checkpoints, Config, Data, Optim, Validation, Watch
from jaxmss.training.watching import METRICS, read_metrics

EVERY, STEPS = 5, 50
KILL, TERM = signal.SIGKILL, signal.SIGTERM
PATIENCE = 120  # seconds for what takes a few


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
    return replace(settings, hours=STEPS * settings.data.batch * settings.data.seconds / 3600)


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
        return kill_process.start(self.config, self.directory, self.output)

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
        _wait(lambda: metrics.exists() and metrics.stat().st_mtime_ns > before, process)  # it drops lines at first
        _wait(lambda: self.last_step() >= first + count, process)

    def wait_for_save(self, process: BaseProcess) -> None:
        """Wait until a checkpoint is being written."""
        self.wait_for_steps(1, process)  # by then the last process's are gone
        _wait(self.saving, process)


def _wait(condition: Callable[[], bool], process: BaseProcess) -> None:
    until = time.monotonic() + PATIENCE
    while not condition() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("kills")
    recordings.write_songs(folder / "data/train", ["a", "b", "c"], samples=6 * recordings.RATE)
    kill_process.write_config(folder / "config.py", to_json(config(folder / "data")))
    run = Run(folder / "config.py", folder / "uninterrupted")
    run.end(run.start())
    assert run.ended == [0], run.output.read_text()
    assert [step for step, _ in run.losses()] == list(range(1, STEPS + 1))
    return run


def moments(random: random.Random) -> list[tuple[signal.Signals, str]]:
    """20 kills: while it starts, between steps and during saves."""
    plan = [(KILL, "start")] * 3 + [(KILL, "steps")] * 6 + [(KILL, "save")] * 6 + [(TERM, "steps")] * 3
    plan += [(TERM, "save")] * 2
    random.shuffle(plan)
    return plan


def test_a_run_that_is_killed_20_times_ends_as_if_it_had_not_been(uninterrupted):
    chance = random.Random(0)
    run = Run(uninterrupted.config, uninterrupted.directory.with_name("killed"))
    for number, (kill, moment) in enumerate(moments(chance)):
        before = run.checkpoint()
        process = run.start()
        if moment == "start":
            time.sleep(chance.uniform(0, 2))
        elif moment == "steps":
            run.wait_for_steps(chance.randint(1, EVERY + 2), process)
        else:
            run.wait_for_save(process)
            time.sleep(chance.uniform(0, 0.5))
        os.kill(process.pid, kill)
        run.end(process)
        what = f"kill {number}: {kill.name} during {moment}, {run.directory}"

        assert run.checkpoint() >= before, what
        if kill == TERM:
            assert run.ended[-1] == 0, f"{what}\n{run.output.read_text()}"
            assert run.checkpoint() == run.last_step() > before, what
        else:
            assert run.ended[-1] == -KILL, f"{what}\n{run.output.read_text()}"
            assert run.last_step() - run.checkpoint() <= EVERY, what

    run.end(run.start())
    assert run.ended[-1] == 0, run.output.read_text()
    assert len(run.ended) == 21
    assert "Traceback" not in run.output.read_text()
    assert not run.saving()

    assert run.losses() == uninterrupted.losses()
    assert run.told == {step: {loss} for step, loss in uninterrupted.losses()}
    assert runs.steps(run.directory) == runs.steps(uninterrupted.directory)
    assert tiny_run.same(last_state(run), last_state(uninterrupted))


def last_state(run: Run) -> object:
    settings = config(run.config.parent / "data")
    songs = runs.songs(run.directory, STEPS)
    with RunCheckpoints(run.directory, settings.checkpoints, songs) as checkpoints:
        state = checkpoints.restore_latest(jax.device_put(tiny_run.state(settings, 0)), pytest.fail)
    assert int(state.step) == STEPS
    return state


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(uninterrupted, tmp_path):
    run = Run(uninterrupted.config, tmp_path / "damaged")
    shutil.copytree(uninterrupted.directory, run.directory)
    last, before = STEPS, STEPS - EVERY + EVERY // 2
    largest = max((run.directory / f"checkpoints/{last}").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    os.truncate(largest, 100)
    run.end(run.start())
    assert run.ended == [0]
    assert "damaged: it holds 100 of" in run.output.read_text()
    assert f"going on from step {before}\n" in run.output.read_text()
    assert run.losses() == uninterrupted.losses()
    assert tiny_run.same(last_state(run), last_state(uninterrupted))


def test_a_run_whose_data_vanishes_saves_what_it_has_learned(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted.config.parent / "data", tmp_path / "data")
    endless = replace(config(tmp_path / "data"), checkpoints=Checkpoints(every=10**6, keep=2), hours=1000.0)
    kill_process.write_config(tmp_path / "config.py", to_json(endless))
    run = Run(tmp_path / "config.py", tmp_path / "run")
    process = run.start()
    run.wait_for_steps(2, process)
    vocals = tmp_path / "data/train/a/vocals.wav"
    vocals.rename(vocals.with_suffix(".gone"))
    run.end(process)
    assert run.ended == [2], run.output.read_text()
    step = run.checkpoint()
    assert step == run.last_step() >= 2
    told = f"a/vocals.wav' cannot be read: No such file or directory; check the disk; step {step} before it is saved"
    assert run.output.read_text().endswith(f"{told}: mend the data and start again to go on\n")
    vocals.with_suffix(".gone").rename(vocals)
    batch = endless.data.batch * endless.data.seconds / 3600
    kill_process.write_config(tmp_path / "config.py", to_json(replace(endless, hours=(step + 2) * batch)))
    run.end(run.start())
    losses = run.losses()
    assert [number for number, _ in losses] == list(range(1, step + 3))
    shared = min(len(losses), STEPS)
    assert losses[:shared] == uninterrupted.losses()[:shared]


@pytest.mark.parametrize("kill", [KILL, TERM])
def test_a_run_that_is_killed_while_it_validates_keeps_the_step(tmp_path, kill):
    recordings.write_songs(tmp_path / "data/train", ["a", "b", "c"], samples=6 * recordings.RATE)
    recordings.write_songs(tmp_path / "data/valid", ["d", "e", "f"], samples=60 * recordings.RATE)
    settings = replace(
        config(tmp_path / "data"), validation=Validation(every=7), checkpoints=Checkpoints(every=1000, keep=2)
    )
    kill_process.write_config(tmp_path / "config.py", to_json(settings))
    run = Run(tmp_path / "config.py", tmp_path / "run")
    process = run.start()
    _wait(lambda: run.checkpoint() == 7, process)
    os.kill(process.pid, kill)
    run.end(process)
    assert run.ended == [-KILL if kill == KILL else 0], run.output.read_text()
    assert run.checkpoint() == run.last_step() == 7
    assert not [line for line in read_metrics(run.directory) if line["step"] == 7 and "loss" not in line]
