"""Two real processes on this machine train as one, and a process that finds no others says so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import training_runs

from jaxmss.checkpoints import store

ALONE = "from jaxmss.training import distributed; distributed.initialize(timeout=3); import jax; print(jax.devices())"

# the command lines, with less patience
IMPATIENT = "from jaxmss.training import distributed; distributed.initialize.__defaults__ = (3, 100); "
LONELY = {
    "train": IMPATIENT + "from jaxmss.training.command import main; main(['configs/quickstart.py', '--run', 'none'])",
    "eval": IMPATIENT
    + "from jaxmss.evaluation.command import main; main(['--ckpt', 'spleeter-2stems', '--data.root', 'demo'])",
}

START = """
import sys
from dataclasses import replace

import jax
import numpy as np
import training_runs

from jaxmss.training import distributed, sharding
from jaxmss.training.starting import start_from

distributed.initialize()
config = replace(training_runs.config(fsdp=2), init=sys.argv[1])
mesh = sharding.make_mesh(config)
state = start_from(config, sharding.init(config, mesh), print)
weights = training_runs.flat({"params": state.params, "batch_stats": state.batch_stats}, mesh)
if jax.process_index() == 0:
    np.savez(sys.argv[2], **weights)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cluster(port: int, index: int, **more: str) -> dict[str, str]:
    """The environment of one of two processes."""
    names = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    return {**os.environ, **names, **more}


@pytest.mark.parametrize(("devices", "case"), [(1, {}), (2, {"fsdp": 2})])
def test_two_processes_train_as_one(tmp_path, devices, case):
    port, file = free_port(), tmp_path / "runs.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, training_runs.__file__, file, json.dumps({"both": case})]
    processes = [subprocess.Popen(command, env=cluster(port, index, XLA_FLAGS=flags)) for index in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    training_runs.assert_same(training_runs.read(file)["both"], training_runs.alone())


def test_two_processes_start_from_one_checkpoint(tmp_path):
    model = training_runs.config().model
    given = tiny.drawn(model)
    store.save(tmp_path / "given", model, given)
    port, file = free_port(), tmp_path / "weights.npz"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", START, tmp_path / "given", file]
    processes = [subprocess.Popen(command, env=cluster(port, index, PYTHONPATH=path)) for index in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    with np.load(file) as weights:
        for name, array in training_runs.flat(given).items():
            np.testing.assert_array_equal(weights[name], array)


def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("index", "script"), [(0, "train"), (1, "train"), (0, "eval"), (1, "eval")])
def test_a_process_that_finds_no_others_says_in_a_line_where_it_waited(index, script):
    port = free_port()
    command = [sys.executable, "-c", LONELY[script]]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=cluster(port, index), cwd=root, capture_output=True, text=True, timeout=60)
    told = f"{script}.py: Process {index} of 2 waited 3 s for the others at 127.0.0.1:{port}: start them all"
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


@pytest.mark.parametrize("around", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
def test_slurm_is_found_without_being_told(around):
    step = around | {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "1"}
    done = start({**os.environ, **step, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert done.returncode == 0, done.stderr
    step["SLURM_NTASKS"] = "2"
    done = start({**os.environ, **step, "SLURM_PROCID": "1", "SLURM_LOCALID": "0"})
    assert "Process 1 of 2 waited" in done.stderr


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"SLURM_JOB_ID": "7"}])
def test_a_process_on_its_own_trains_alone(environment):
    done = start({**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "node1:1234"}, "not JAX_NUM_PROCESSES and JAX_PROCESS_ID to a whole number"),
        (cluster(0, 0) | {"JAX_COORDINATOR_ADDRESS": "node1"}, "(='node1') cannot be used: give host:port"),
        (cluster(1234, 2), "process_id=2, num_processes=2"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS: give host:port"),
        ({"JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID is set, but not JAX_COORDINATOR_ADDRESS: give host:port"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, "pod is number 1 of a Kubernetes job"),
    ],
)
def test_an_incomplete_cluster_is_refused(environment, message):
    done = start({**os.environ, **environment})
    assert done.stderr.splitlines()[-1].startswith("jaxmss.errors.InputError: ")
    assert message in done.stderr.splitlines()[-1]
    assert "Warning" not in done.stderr
