"""`eval.py` in two processes: real ones, which find each other by JAX's coordinator."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jaxmss.checkpoints import store

from .stems import change
from .test_run import SMALL, drawn

REPOSITORY = Path(__file__).parents[2]


# eval.py, whose process 1 comes to grief ahead of its tracks, and which waits for a sign of life for 4 s, not a minute
LOST = """
import os, signal, sys
from jaxmss.evaluation import evaluate, processes
from jaxmss.evaluation.command import main
if __name__ == "__main__":  # processes that score import this again
    processes._BEAT, processes._LOST = 0.5, 4
    if os.environ["JAX_PROCESS_ID"] == "1":
        evaluate.evaluate = lambda *_: {grief}
    main(sys.argv[1:])
"""


def start_two(first: Sequence[object], second: Sequence[object], program: Path) -> list[subprocess.Popen]:
    """Start eval.py, or another program, as process 0 and 1 of 2, with these arguments."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            [sys.executable, program, *map(str, arguments), "--workers", "1"],
            cwd=REPOSITORY,
            env={**os.environ, **cluster, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, arguments in enumerate((first, second))
    ]


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Return exit status, output and errors of a process."""
    told = process.communicate(timeout=120)
    return process.returncode, *told


def run_in_two(*arguments: object) -> list[tuple[int, str, str]]:
    """Run eval.py as process 0 and 1 of 2; return what `ended` does for each."""
    return [ended(process) for process in start_two(arguments, arguments, REPOSITORY / "eval.py")]


def test_two_processes_share_the_tracks_and_one_reports(root):
    store.save(root / "model", SMALL, drawn(SMALL, 0))
    arguments = ("--data.root", root / "data", "--ckpt", root / "model", "--output")
    first, second = run_in_two(*arguments, root / "out")
    assert first[0] == second[0] == 0, (first, second)
    assert "[2/2] C: SDR " in first[1]
    assert "[1/1] B: SDR " in second[1]
    assert "published SDR" in first[1]
    assert "published SDR" not in second[1]
    together = json.loads((root / "out" / "results.json").read_text())
    alone = subprocess.run(
        [sys.executable, "eval.py", *map(str, arguments), root / "alone"], cwd=REPOSITORY, check=True
    )
    assert alone.returncode == 0
    expected = json.loads((root / "alone" / "results.json").read_text())
    assert list(together["tracks"]) == ["A", "B", "C"]
    assert together["tracks"] == expected["tracks"]
    assert together["stems"] == expected["stems"]


def test_a_track_that_fails_in_one_process_is_in_the_report_and_the_status_of_both(root):
    change(root / "estimates" / "B" / "drums.wav", lambda x: x[:-7])
    first, second = run_in_two(
        "--data.root", root / "data", "--estimates", root / "estimates", "--output", root / "out"
    )
    assert first[0] == second[0] == 1, (first, second)
    assert "failed: B: estimate of 'drums' has 1 channels and 6092 samples" in first[1]
    results = json.loads((root / "out" / "results.json").read_text())
    assert (list(results["tracks"]), list(results["failed"])) == (["A", "C"], ["B"])


@pytest.mark.parametrize(
    ("grief", "ends", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "has not been heard of for "),
        ("[][0]", 1, "ended with status 1"),
    ],
    ids=["killed", "defect"],
)
def test_a_lost_process_is_reported_and_what_it_leaves_is_scored_by_the_next_run(root, grief, ends, why):
    arguments = ["--data.root", root / "data", "--estimates", root / "estimates", "--output", root / "out"]
    (root / "lost.py").write_text(LOST.replace("{grief}", grief))
    first, second = start_two(arguments, arguments, root / "lost.py")
    status, told, errors = ended(first)
    assert second.wait(timeout=60) == ends
    assert status == 1, errors
    assert f"failed: B: Process 1 of 2, whose track it was, {why}" in told
    assert "run again with the same output to score what is left" in told
    assert not errors
    results = json.loads((root / "out" / "results.json").read_text())
    assert (list(results["tracks"]), list(results["failed"])) == (["A", "C"], ["B"])

    for status, told, errors in run_in_two(*arguments):
        assert status == 0, (told, errors)
    assert list(json.loads((root / "out" / "results.json").read_text())["tracks"]) == ["A", "B", "C"]


@pytest.mark.parametrize("mistaken", [0, 1])
def test_a_mistake_in_one_process_ends_both_with_a_line(root, mistaken):
    right = ["--data.root", root / "data", "--estimates", root / "estimates", "--output", root / "out"]
    arguments = [right, right]
    arguments[mistaken] = [*right, "--tracks", "Z"]
    told = [ended(process) for process in start_two(*arguments, REPOSITORY / "eval.py")]
    assert told[mistaken][0] == 2
    [line] = [line for line in told[mistaken][2].splitlines() if line.startswith("eval.py: ")]
    assert "'Z'" in line
    if mistaken == 1:
        assert told[0][0] == 1, told[0]
        assert "failed: B: Process 1 of 2, whose track it was, ended with status 2" in told[0][1]
