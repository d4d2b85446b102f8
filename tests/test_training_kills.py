"""Training is killed again and again, by real signals at random moments, and must end as if it never had been."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import recordings
import simulated
import tiny
import tiny_run
from kill_process import EVERY, STEPS, Run, config, lasting, wait, write_config

from jaxmss.checkpoints import runs, store
from jaxmss.config import to_json
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Checkpoints, Optim, Validation
from jaxmss.training.watching import read_metrics

KILL, TERM = signal.SIGKILL, signal.SIGTERM
STOPPED = 143  # the exit status after SIGTERM
SELDOM = 50  # steps in which the uninterrupted run saves twice: it takes longer than they do


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Run:
    folder = simulated.once(tmp_path_factory, "uninterrupted", train)
    run = Run(folder / "config.py", folder / "run")
    assert [step for step, _ in run.losses()] == list(range(1, STEPS + 1))
    return run


def train(folder: Path) -> None:
    """Train from given weights to the end, in a folder with the data."""
    recordings.write_songs(folder / "data/train", ["a", "b", "c"], samples=6 * recordings.RATE)
    settings = config(folder / "data")
    store.save(folder / "weights", settings.model, tiny.drawn(settings.model))
    seldom = Checkpoints(every=SELDOM, keep=2)
    write_config(folder / "config.py", to_json(replace(settings, init=str(folder / "weights"), checkpoints=seldom)))
    run = Run(folder / "config.py", folder / "run")
    run.end(run.start())
    assert run.ended == [0], run.output.read_text()


def moments(random: random.Random) -> list[tuple[signal.Signals, str]]:
    """20 kills: while it starts, between steps and during saves."""
    plan = [(KILL, "start")] * 3 + [(KILL, "steps")] * 6 + [(KILL, "save")] * 6 + [(TERM, "steps")] * 3
    plan += [(TERM, "save")] * 2
    random.shuffle(plan)
    return plan


def test_a_run_that_is_killed_20_times_ends_as_if_it_had_not_been(uninterrupted):
    chance = random.Random(0)
    folder = uninterrupted.config.parent
    run = Run(folder / "often.py", folder / "killed")
    write_config(run.config, to_json(replace(config(folder / "data"), init=str(folder / "weights"))))
    for number, (kill, moment) in enumerate(moments(chance)):
        before = run.checkpoint()
        process = run.start()
        if moment == "start":
            time.sleep(chance.uniform(0, 2))
        elif moment == "steps":
            run.wait_for_steps(chance.randint(1, EVERY + 2), process)
        else:
            run.wait_for_save(process)
            time.sleep(chance.uniform(0, 0.2))
        os.kill(process.pid, kill)
        run.end(process)
        what = f"kill {number}: {kill.name} during {moment}, {run.directory}"

        assert run.checkpoint() >= before, what
        if kill == TERM:
            assert run.ended[-1] == STOPPED, f"{what}\n{run.output.read_text()}"
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
    assert runs.steps(run.directory) == [STEPS - EVERY + EVERY // 2, STEPS]
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
    last, before = STEPS, STEPS - SELDOM // 2
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
    weights = str(uninterrupted.directory.with_name("weights"))
    endless = replace(
        config(tmp_path / "data"), checkpoints=Checkpoints(every=10**6, keep=2), hours=1000.0, init=weights
    )
    write_config(tmp_path / "config.py", to_json(endless))
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
    write_config(tmp_path / "config.py", to_json(lasting(endless, step + 2)))
    run.end(run.start())
    losses = run.losses()
    assert [number for number, _ in losses] == list(range(1, step + 3))
    assert run.checkpoint() == step + 2  # the end is saved, though no checkpoint was due
    shared = min(len(losses), STEPS)
    assert losses[:shared] == uninterrupted.losses()[:shared]


def test_sigterm_ends_a_run_whose_data_hang(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted.config.parent / "data", tmp_path / "data")
    write_config(tmp_path / "config.py", to_json(replace(config(tmp_path / "data"), hours=1000.0)))
    run = Run(tmp_path / "config.py", tmp_path / "run")
    process = run.start()
    run.wait_for_steps(2, process)
    for song in "abc":
        vocals = tmp_path / "data/train" / song / "vocals.wav"
        os.mkfifo(vocals.with_suffix(".fifo"))  # nobody writes to it: who opens it waits
        vocals.with_suffix(".fifo").rename(vocals)
    step = -1
    while run.last_step() > step:  # until it waits
        step = run.last_step()
        time.sleep(1)
    os.kill(process.pid, TERM)
    run.end(process)
    assert run.ended == [STOPPED], run.output.read_text()
    assert run.checkpoint() == run.last_step() >= step
    assert f"after step {run.checkpoint()}, which is saved; start again to go on\n" in run.output.read_text()


@pytest.mark.parametrize("kill", [KILL, TERM])
def test_a_run_that_is_killed_while_it_validates_keeps_the_step(tmp_path, kill):
    recordings.write_songs(tmp_path / "data/train", ["a", "b", "c"], samples=6 * recordings.RATE)
    recordings.write_songs(tmp_path / "data/valid", ["d", "e", "f"], samples=60 * recordings.RATE)
    settings = replace(
        config(tmp_path / "data"), validation=Validation(every=7), checkpoints=Checkpoints(every=1000, keep=2)
    )
    write_config(tmp_path / "config.py", to_json(settings))
    run = Run(tmp_path / "config.py", tmp_path / "run")
    process = run.start()
    wait(lambda: run.checkpoint() == 7, process)
    os.kill(process.pid, kill)
    run.end(process)
    assert run.ended == [-KILL if kill == KILL else STOPPED], run.output.read_text()
    assert run.checkpoint() == run.last_step() == 7
    assert validated(run) == []

    write_config(run.config, to_json(lasting(settings, 7)))
    for _ in range(2):  # the first makes up for it, the second has nothing to do
        run.end(run.start())
        assert run.ended[-1] == 0, run.output.read_text()
        assert validated(run) == [7]
        assert runs.score(run.directory, 7).sdr > -math.inf
    assert "step 7: median SDR in dB over 3 tracks" in run.output.read_text()

    (tmp_path / "data/valid/d/vocals.wav").write_bytes(b"")  # nothing looks at it any more
    run.end(run.start())
    assert run.ended[-1] == 0, run.output.read_text()
    write_config(run.config, to_json(replace(settings, seed=1)))
    assert "holds a run of another config: seed 0 -> 1" in give_up(run)


def validated(run: Run) -> list[int]:
    return [line["step"] for line in read_metrics(run.directory) if "validation" in line]


def give_up(run: Run) -> str:
    """Start a run that is to end with status 2; return its last line."""
    run.end(run.start())
    assert run.ended[-1] == 2, run.output.read_text()
    return run.output.read_text().splitlines()[-1]


def test_a_run_that_learns_nothing_any_more_stops_and_names_the_step(uninterrupted, tmp_path):
    exploding = replace(config(uninterrupted.config.parent / "data"), optim=Optim(lr=1e30, give_up_after=4))
    write_config(tmp_path / "config.py", to_json(exploding))
    run = Run(tmp_path / "config.py", tmp_path / "run")
    told = give_up(run)
    skipped = {line["step"]: line["skipped"] for line in read_metrics(run.directory) if "loss" in line}
    [step] = [step for step, count in skipped.items() if count == 4]
    assert f"not finite in 4 steps in a row, up to step {step}: nothing was learned from them" in told

    write_config(tmp_path / "config.py", to_json(lasting(exploding, step)))  # where it is the last one
    last = Run(tmp_path / "config.py", tmp_path / "last")
    for _ in range(2):  # it is no complete run when it is started again
        assert f"in a row, up to step {step}: " in give_up(last)
