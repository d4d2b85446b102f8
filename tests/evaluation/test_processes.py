"""`eval.py` in two processes: real ones, which find each other by JAX's coordinator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from jaxmss.checkpoints import store

from .stems import change
from .test_run import SMALL, drawn

REPOSITORY = Path(__file__).parents[2]


def run_in_two(*arguments: object) -> list[tuple[int, str, str]]:
    """Run eval.py as process 0 and 1 of 2; return exit status, output and errors of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "eval.py", *map(str, arguments), "--workers", "1"]
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    started = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **cluster, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    told = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, told, strict=True)]


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
