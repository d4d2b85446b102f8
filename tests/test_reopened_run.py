"""What a run begins with, what is validated of it, and how it goes on with other validation tracks or is complete."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import recordings
from kill_process import Run, config, lasting, write_config

from jaxmss import load
from jaxmss.checkpoints import runs
from jaxmss.config import to_json
from jaxmss.data.songs import validation_tracks
from jaxmss.training.config import Checkpoints, Config, Optim, Validation
from jaxmss.training.validation import Validator

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def validated(tmp_path_factory) -> Path:
    """A folder with a run that has validated its second step, and is complete, and its data."""
    folder = tmp_path_factory.mktemp("validated")
    recordings.write_songs(folder / "data/train", ["a", "b"], samples=2 * recordings.RATE)
    recordings.write_songs(folder / "data/valid", ["c"], samples=2 * recordings.RATE)
    go_on(Run(folder / "config.py", folder / "run"), steps=2)
    return folder


@pytest.fixture
def run(validated, tmp_path) -> Run:
    """That run, to go on with."""
    shutil.copytree(validated, tmp_path / "own")
    return Run(tmp_path / "own/config.py", tmp_path / "own/run")


def settings_of(run: Run) -> Config:
    usual = config(run.directory.parent / "data")
    return replace(
        usual, validation=Validation(every=1000), checkpoints=Checkpoints(keep=1), optim=Optim(lr=0.01, warmup=0.0)
    )


def go_on(run: Run, steps: int, **changes) -> None:
    write_config(run.config, to_json(lasting(replace(settings_of(run), **changes), steps)))
    run.end(run.start())
    assert run.ended[-1] == 0, run.output.read_text()


def test_a_run_is_validated_by_its_moving_average(run):
    validator = Validator(settings_of(run), validation_tracks(settings_of(run).data))
    averaged, raw = (validator(load(f"{run.directory}@2{kind}").variables).mean for kind in ("", "@raw"))
    assert abs(averaged - raw) > 0.01
    assert runs.score(run.directory, 2).sdr == pytest.approx(averaged, abs=1e-3)


def test_a_run_begins_with_the_weights_of_init_and_draws_its_examples_from_its_seed(run):
    weights = load(run.directory).variables["params"]
    losses = set()
    for seed in (0, 1):
        other = Run(run.directory.parent / f"{seed}.py", run.directory.with_name(f"seed-{seed}"))
        still = {"init": str(run.directory), "optim": Optim(lr=1e-30), "validation": Validation(every=0)}
        go_on(other, steps=1, seed=seed, **still)
        jax.tree.map(np.testing.assert_array_equal, load(f"{other.directory}@last@raw").variables["params"], weights)
        losses.add(other.losses()[0])
    assert len(losses) == 2


def test_a_score_over_other_validation_tracks_is_not_compared(run):
    go_on(run, steps=3)
    assert "others than before" not in run.output.read_text()
    manifest = run.directory / f"checkpoints/{max(runs.steps(run.directory))}/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sdr": 50.0}))

    recordings.write_songs(run.directory.parent / "data/valid", ["d"], samples=2 * recordings.RATE)
    go_on(run, steps=4)
    [line] = [line for line in run.output.read_text().splitlines() if "others than before" in line]
    assert line.startswith("train.py: validated on others than before (1 tracks, ")
    assert "now 2 tracks, " in line
    assert runs.steps(run.directory) == [3, 4]
    assert runs.choose(run.directory, None) == 4
    report = json.loads((run.directory / "report.json").read_text())
    assert (report["best"]["step"], report["last"]["step"], report["tracks"]) == (4, 4, 2)


def test_a_validation_in_which_a_track_failed_is_no_score(run):
    valid = run.directory.parent / "data/valid"
    recordings.write_songs(valid, ["d"], samples=2 * recordings.RATE)
    steps = 500  # of milliseconds each
    write_config(run.config, to_json(lasting(settings_of(run), steps)))
    process = run.start()
    run.wait_for_steps(2, process)  # all tracks were read before
    (valid / "d/vocals.wav").unlink()
    run.end(process)
    assert run.ended[-1] == 0, run.output.read_text()
    assert f"step {steps}: validation of 'd' failed: " in run.output.read_text()
    assert runs.score(run.directory, steps).sdr == -math.inf
    assert runs.choose(run.directory, None) == 2


def test_a_complete_run_whose_report_nobody_reads_has_status_0(run):
    command = [sys.executable, "train.py", str(run.config), "--run", str(run.directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0, told
    assert told.startswith("complete: 2 steps are done")
    assert told.count("\n") == 1
