"""Checkpoints of networks: a folder with ``config.json`` and the weights as Orbax writes them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxmss import models
from jaxmss.config import from_json, to_json
from jaxmss.errors import CheckpointError, InputError
from jaxmss.typing import Variables

_CONFIG, _WEIGHTS = "config.json", "weights"


def save(directory: Path, config: Any, variables: Variables) -> None:
    """Write `variables` and their `config` to a new `directory`: whole, or not at all.

    Raises `CheckpointError` if the directory holds anything or cannot be written.
    """
    directory = Path(directory).absolute()
    check_new(directory)
    aside = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(aside / _WEIGHTS, variables)
        files = sorted(file for file in (aside / _WEIGHTS).rglob("*") if file.is_file())
        sizes = {str(file.relative_to(aside)): file.stat().st_size for file in files}
        stored = {"kind": type(config).__name__, "config": to_json(config), "files": sizes}
        (aside / _CONFIG).write_text(json.dumps(stored, indent=2) + "\n")
        aside.chmod(0o777 & ~_umask())
        os.replace(aside, directory)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {directory} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def check_new(directory: Path) -> None:
    """Raise `CheckpointError` unless a checkpoint can be written to `directory`: it must be absent or empty."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists already; name a new directory")


def restore(directory: Path) -> tuple[Any, Variables]:
    """Read the config and the variables of a checkpoint; raise `CheckpointError` if it is damaged."""
    directory = Path(directory).absolute()
    config = read_config(directory)
    _check_sizes(directory)
    return config, read_variables(directory / _WEIGHTS, config)


def read_variables(folder: Path, config: Any) -> Variables:
    """Read the variables of the network of `config` from what Orbax wrote; raise `CheckpointError` if they differ.

    Each of several processes reads for itself, onto a device of its own.
    """
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), models.variable_shapes(config)
    )
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            return checkpointer.restore(folder.absolute(), target)
    except Exception as error:  # Orbax and its storage raise many kinds, none of them documented
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The weights in {folder} are damaged or of another network: {told}") from error


def read_config(directory: Path) -> Any:
    """Read the config of a checkpoint."""
    file = Path(directory) / _CONFIG
    try:
        stored = json.loads(file.read_text())
        kinds = {kind.__name__: kind for kind in models.NETWORKS}
        return from_json(kinds[stored["kind"]], stored["config"])
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is no checkpoint: it holds no {_CONFIG}") from None
    except InputError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not the config of a network ({error!r})") from None


def _check_sizes(directory: Path) -> None:
    """Raise `CheckpointError` for a lost or cut file, which Orbax would tell by tracebacks of its threads."""
    for name, size in json.loads((directory / _CONFIG).read_text()).get("files", {}).items():
        file = directory / name
        there = file.stat().st_size if file.is_file() else 0
        if there != size:
            raise CheckpointError(f"{file} is damaged: it holds {there} of {size} bytes; copy the checkpoint again")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
