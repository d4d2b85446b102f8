from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import checkpoint_processes
import jax
import pytest
import tiny_run

from jaxmss.checkpoints import runs
from jaxmss.loading import load
from jaxmss.training.checkpoints import RunCheckpoints

SCRIPT = Path(checkpoint_processes.__file__)


def processes(count: int, devices: int, *arguments: object) -> list[tuple[int, str]]:
    """Run the script in processes that are one run; return their exit statuses and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    started = []
    for index in range(count):
        cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
        started.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, *map(str, arguments)],
                env=environment | (cluster if count > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        told = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, told, strict=True)]


def succeed(results: list[tuple[int, str]]) -> str:
    assert all(status == 0 for status, _ in results), "\n".join(text for _, text in results)
    return results[0][1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two processes with two devices each, which share a copy of the parameters."""
    directory = tmp_path_factory.mktemp("runs") / "two"
    told = succeed(processes(2, 2, directory, 2, "save", 1, 2))
    assert re.search(r"2 processes, 4 devices, [1-9]\d* arrays cut", told)
    return directory


def test_eight_devices_restore_what_two_processes_wrote(run):
    told = succeed(processes(1, 8, run, 8, "restore", 2))
    assert re.search(r"1 processes, 8 devices, [1-9]\d* arrays cut", told)


def test_one_device_restores_what_two_processes_wrote(run):
    settings = checkpoint_processes.config(1)
    state = jax.device_put(tiny_run.state(settings, 0), jax.devices()[0])
    with RunCheckpoints(run, settings.checkpoints, "") as checkpoints:
        restored = checkpoints.restore_latest(state, print)
    assert tiny_run.same(restored, tiny_run.state(settings, 2))
    assert tiny_run.same(load(f"{run}@1").variables, tiny_run.state(settings, 1).ema)


def test_two_processes_agree_on_the_checkpoint_before_a_damaged_one(run):
    largest = max((run / "checkpoints/2").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    os.truncate(largest, 100)
    told = succeed(processes(2, 2, run, 2, "restore", 1))
    assert re.search(r"told: .*checkpoints/2.* is damaged: it holds 100 of \d+ bytes; going on from step 1", told)
    assert runs.steps(run) == [1]


def test_every_process_ends_where_the_first_refuses(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("!")
    (first, why), (second, also) = processes(2, 1, tmp_path, 1, "save", 1)
    assert (first, second) == (1, 1)
    assert "refused:" in why
    assert "holds thesis.tex" in why
    assert "refused: Process 0 cannot train in" in also
