"""Runs of two real processes, from their command line: they stop together, and none waits for one that has failed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import kill_process
import numpy as np
import pytest
import recordings
import soundfile
import tiny_run
from test_two_processes import cluster, free_port

from jaxmss.checkpoints import runs
from jaxmss.config import to_json
from jaxmss.training.config import Checkpoints, Data, Validation, Watch
from jaxmss.training.watching import read_metrics

TRAIN = "import sys; from jaxmss.training.command import main; main(sys.argv[1:])"

# trains by one command line after another, as far as it gets, and prints why it gets no further
REFUSED = """
import json, sys
from pathlib import Path
from jaxmss.errors import InputError
from jaxmss.training import agreement, distributed, loop
from jaxmss.training.command import parse

distributed.initialize()
distributed.initialize = lambda: None
agreement.SEEN_WITHIN = 1
for arguments in json.loads(sys.argv[2]):
    parsed = parse(Path(sys.argv[1]), arguments)
    try:
        loop.train(parsed.config, parsed.run)
    except InputError as error:
        print("refused:", error, flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    recordings.write_songs(root / "train", ["a", "b", "c"], samples=6 * recordings.RATE)
    return root


@pytest.fixture
def config(tmp_path, data) -> Path:
    """A config file of more steps than anybody waits for, of milliseconds each."""
    network = replace(tiny_run.SMALLEST, sample_rate=recordings.RATE)
    settings = tiny_run.config(
        model=network,
        data=Data(root=str(data), batch=2, seconds=1.0, threads=2),
        checkpoints=Checkpoints(every=1000, keep=2),
        validation=Validation(every=0),
        watch=Watch(every=7),
    )
    kill_process.write_config(tmp_path / "config.py", to_json(settings))
    return tmp_path / "config.py"


def start(code: str, first: Sequence[object], second: Sequence[object]) -> list[subprocess.Popen[str]]:
    """Start two processes with arguments of their own."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=cluster(port, index),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, arguments in enumerate((first, second))
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """What they printed to stdout and stderr."""
    try:
        return [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for_step(run: Path, step: int, processes: list[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_metrics(run) if "loss" in line):
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_refused(printed: str, *patterns: str) -> None:
    """Compare the lines that begin so; Gloo prints others."""
    lines = [line.removeprefix("refused: ") for line in printed.splitlines() if line.startswith("refused: ")]
    assert len(lines) == len(patterns), printed
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_sigterm_of_one_stops_both_after_the_same_step_and_one_process_goes_on(config, tmp_path):
    run = tmp_path / "run"
    processes = start(TRAIN, *[[config, "--run", run]] * 2)
    wait_for_step(run, 7, processes)
    processes[1].send_signal(signal.SIGTERM)
    (_, told), _ = ended(processes)
    assert [process.returncode for process in processes] == [143, 143], told
    [step] = runs.steps(run)
    assert f"stopped by SIGTERM after step {step}, which is saved" in told

    starts = len([line for line in read_metrics(run) if "started" in line]) + 1
    processes = start(TRAIN, *[[config, "--run", run]] * 2)
    while len([line for line in read_metrics(run) if "started" in line]) < starts:
        assert processes[0].poll() is None, ended(processes)
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGTERM)  # while the step is compiled
    ended(processes)
    assert [process.returncode for process in processes] == [143, 143]
    assert step < runs.steps(run)[-1] <= step + 3
    step = runs.steps(run)[-1]

    hours = (step + 2) * 2 / 3600
    for directory in (run, tmp_path / "whole"):  # the latter by one process alone, from the first step to the last
        train = [sys.executable, "-c", TRAIN, config, "--run", directory, "--hours", str(hours)]
        assert subprocess.run(train, check=False).returncode == 0
    told, whole = (
        {line["step"]: (line["loss"], line["loss_mean"]) for line in read_metrics(directory) if "loss" in line}
        for directory in (run, tmp_path / "whole")
    )
    assert list(told) == sorted({*range(7, step + 2, 7), step + 2})
    assert list(whole) == list(told)
    np.testing.assert_allclose(list(told.values()), list(whole.values()), rtol=1e-5)


def test_processes_that_do_not_agree_are_refused_together(config, data, tmp_path):
    recordings.write_songs(tmp_path / "fewer/train", ["a", "b"], samples=6 * recordings.RATE)
    shutil.copytree(data, tmp_path / "unlike")
    recordings.write_songs(tmp_path / "unlike/valid", ["d"], samples=6 * recordings.RATE)
    shutil.copytree(tmp_path / "unlike", tmp_path / "whole")
    recordings.write_songs(tmp_path / "whole/valid", ["e"], samples=6 * recordings.RATE)
    own = [
        ["--run", tmp_path / "run", "--optim.lr", "0.5"],
        ["--run", tmp_path / "run", "--data.root", tmp_path / "nowhere"],
        ["--run", tmp_path / "run", "--data.root", tmp_path / "fewer"],
        ["--run", tmp_path / "run", "--validation.every", "5", "--data.root", tmp_path / "unlike"],
        ["--run", tmp_path / "elsewhere"],
    ]
    usual = [["--run", tmp_path / "run"]] * len(own)
    usual[3] = [*usual[3], "--validation.every", "5", "--data.root", tmp_path / "whole"]
    texts = ([[str(argument) for argument in arguments] for arguments in each] for each in (usual, own))
    processes = start(REFUSED, *([config, json.dumps(arguments)] for arguments in texts))
    (first, _), (second, errors) = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    other = "Process 1 was started with another config than process 0: optim.lr 0.001 -> 0.5; start all with the same"
    fewer = r"The songs that process 1 finds \(2 songs, .*\) are not those of process 0 \(3 songs, .*\); copy the .*"
    tracks = "The songs that process 1 finds .*to validate on 1, .* are not those of process 0 .*to validate on 2, .*"
    assert_refused(
        first,
        other,
        "Another process cannot use its devices or data; it says why",
        fewer,
        tracks,
        f"{tmp_path}/run is not the same folder for all processes; name one by --run that all hosts share",
    )
    assert_refused(
        second,
        other,
        f"There is no directory '{tmp_path}/nowhere'.*",
        fewer,
        tracks,
        f"{tmp_path}/elsewhere is not the same folder for all processes; name one by .*",
    )
    assert not (tmp_path / "elsewhere").exists()


def test_a_process_that_cannot_read_its_data_says_so_and_ends_the_other(config, data, tmp_path):
    spoilt = tmp_path / "spoilt/train"
    for folder in (data / "train").iterdir():
        (spoilt / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            samples, rate = soundfile.read(file)
            soundfile.write(spoilt / folder.name / file.name, np.full_like(samples, np.nan), rate, subtype="FLOAT")
    run = ["--run", tmp_path / "run"]
    processes = start(TRAIN, [config, *run], [config, *run, "--data.root", spoilt.parent])
    (_, told), (_, errors) = ended(processes)
    assert [process.returncode for process in processes] == [1, 2]
    assert "Traceback" not in told
    assert "train.py: another process was lost, or the devices failed: " in told
    [line] = errors.splitlines()
    assert line.startswith("train.py: ")
    assert "NaN" in line
