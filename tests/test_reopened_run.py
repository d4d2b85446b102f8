"""A run that goes on with other validation tracks, and one that is complete and tells nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import recordings
from kill_process import Run, config, write_config

from jaxmss.checkpoints import runs
from jaxmss.config import to_json
from jaxmss.training.config import Checkpoints, Validation

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that has validated its second step, and is complete."""
    recordings.write_songs(tmp_path / "data/train", ["a", "b"], samples=2 * recordings.RATE)
    recordings.write_songs(tmp_path / "data/valid", ["c"], samples=2 * recordings.RATE)
    run = Run(tmp_path / "config.py", tmp_path / "run")
    go_on(run, steps=2)
    return run


def go_on(run: Run, steps: int) -> None:
    settings = replace(
        config(run.directory.parent / "data"), validation=Validation(every=1000), checkpoints=Checkpoints(keep=1)
    )
    batch = settings.data.batch * settings.data.seconds / 3600
    write_config(run.config, to_json(replace(settings, hours=steps * batch)))
    run.end(run.start())
    assert run.ended[-1] == 0, run.output.read_text()


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


def test_a_complete_run_whose_report_nobody_reads_has_status_0(run):
    command = [sys.executable, "train.py", str(run.config), "--run", str(run.directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0, told
    assert told.startswith("complete: 2 steps are done")
    assert told.count("\n") == 1
