"""Joining the processes of a cluster: Cloud TPU pods, Slurm, Open MPI, Kubernetes, or addresses given by hand."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import jax
from jax._src.clusters import OmpiCluster, SlurmCluster  # the only names of what JAX finds first
from jax._src.distributed import global_state  # nothing public tells the address that JAX found
from jax._src.xla_bridge import backends_are_initialized

from jaxmss.data.batches import THREADS
from jaxmss.errors import InputError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
INDEXED_JOB = "JOB_COMPLETION_INDEX"  # the number of a pod in its Kubernetes job
TIMEOUT = 300  # seconds: the processes of a cluster start minutes apart
LAST = 3  # seconds that process 0 leaves the others to end by themselves: without it, JAX aborts them
NEVER = 7 * 24 * 3600  # seconds; when JAX's own time is over, it aborts the process with a stack trace


def initialize(timeout: float = TIMEOUT, heartbeat_timeout: int = 100) -> None:
    """Join the other processes of this run, if there are any. To be called before JAX is used.

    JAX finds Cloud TPU pods, Slurm, Open MPI and indexed Kubernetes jobs by itself. Elsewhere the environment tells:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. A process on its own does
    nothing, nor does one that nothing but JAX could tell of others and in which JAX is in use: it is too late then.
    JAX aborts all processes when one has not been heard of for `heartbeat_timeout` seconds.

    Raises `InputError` if the environment is incomplete, or not all processes have met after `timeout` seconds.
    """
    given = _given()
    if ADDRESS not in os.environ and backends_are_initialized():
        return
    failures: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(
                **given, initialization_timeout=NEVER, heartbeat_timeout_seconds=heartbeat_timeout
            )
        except Exception as error:
            failures.append(error)

    warnings.filterwarnings("ignore", "Kubernetes environment detected")  # told below, in a line, where it matters
    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        index, count = global_state.process_id, global_state.num_processes
        address = global_state.coordinator_address or "a coordinator whose name cannot be resolved"
        raise InputError(
            f"Process {index} of {count} waited {timeout:g} s for the others at {address}: "
            "start them all, and see that each can reach this address"
        )
    if failures and not _found_nothing(failures[0]):
        raise InputError(f"Cannot join the other processes: {' '.join(str(failures[0]).split())}") from failures[0]
    if failures and INDEXED_JOB in os.environ:
        raise InputError(
            f"This pod is number {os.environ[INDEXED_JOB]} of a Kubernetes job, and finds the others only with the "
            f"package `kubernetes`: pip install kubernetes, or give {ADDRESS}, {COUNT} and {INDEX}"
        )


def step_failed(error: Exception) -> str | None:
    """Return why a program that all processes run together failed; None for any other error, or of one process."""
    together = isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1
    return " ".join(str(error).split())[:200] if together else None


def end(status: int) -> None:
    """End this process, also where threads wait for data that never come; one of several waits for them."""
    reading = any(thread.name.startswith(THREADS) for thread in threading.enumerate())
    if global_state.client is None and reading:
        _flush()
        os._exit(status)
    sys.exit(status)


def leave(status: int) -> None:
    """End this process now, if it is one of several. JAX's own way would be to wait for all of them."""
    if global_state.client is None or global_state.num_processes == 1:
        return
    if global_state.process_id == 0:
        time.sleep(LAST)
    _flush()
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody may be reading
            stream.flush()


def _given() -> dict[str, Any]:
    """Return what the environment says of the cluster, as arguments of `jax.distributed.initialize`."""
    if ADDRESS in os.environ:
        missing = [name for name in (COUNT, INDEX) if not os.environ.get(name, "").isdigit()]
        if missing:
            raise InputError(f"{ADDRESS} is set, but not {' and '.join(missing)} to a whole number")
        address, count, index = os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[INDEX])
        if not address.rpartition(":")[2].isdigit():
            raise InputError(f"{ADDRESS} (={address!r}) cannot be used: give host:port of process 0")
        return {"coordinator_address": address, "num_processes": count, "process_id": index}
    if alone := [name for name in (COUNT, INDEX) if name in os.environ]:
        raise InputError(f"{alone[0]} is set, but not {ADDRESS}: give host:port of process 0")
    pod = "KUBERNETES_SERVICE_HOST" in os.environ and not {INDEXED_JOB, "TPU_WORKER_ID"} & set(os.environ)
    if pod and not OmpiCluster.is_env_present() and not SlurmCluster.is_env_present():
        return {"cluster_detection_method": "deactivate"}  # a pod on its own, which JAX takes for one of many
    return {}


def _found_nothing(failure: Exception) -> bool:
    """Tell whether JAX failed because it saw no cluster."""
    return isinstance(failure, ValueError) and "coordinator_address should be defined" in str(failure)
