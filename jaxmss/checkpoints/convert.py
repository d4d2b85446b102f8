"""Turn a published PyTorch checkpoint into one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmss import models
from jaxmss.checkpoints.demucs_file import DEMUCS_CLASSES, read_demucs_file
from jaxmss.checkpoints.demucs_names import from_demucs_state
from jaxmss.checkpoints.store import check_new, save
from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.checkpoints.torch_names import from_state_dict
from jaxmss.config import check
from jaxmss.errors import CheckpointError


def convert(architecture: str, file: Path, directory: Path, sources: tuple[str, ...] | None = None) -> None:
    """Read the weights of `architecture` from a PyTorch `file` and write a checkpoint to a new `directory`.

    A file of the package demucs tells the network's shape itself: of `architecture` it is an instance. `sources`
    renames the stems, for networks trained on others than the architecture's or the file's. PyTorch is not needed and
    no code of the file is run. Raises `InputError` for an unknown architecture, `CheckpointError` for a file that does
    not hold it or holds NaN, or a directory that cannot be written; nothing is half-written.
    """
    if architecture in DEMUCS_CLASSES:
        check_new(directory)
        config, demucs_state = read_demucs_file(file, architecture)
        _check_finite(demucs_state, file)
        config = _renamed(config, sources)
        variables = from_demucs_state(demucs_state, models.variable_shapes(config), config, str(file))
    else:
        config = _renamed(models.architecture(architecture), sources)
        check_new(directory)
        state = find_state_dict(read_torch_file(file), file)
        _check_finite(state, file)
        variables = from_state_dict(state, models.variable_shapes(config), config, str(file))
    save(directory, config, variables)


def _check_finite(state: Mapping[str, np.ndarray], file: Path) -> None:
    bad = sorted(name for name, array in state.items() if np.iscomplexobj(array) or not np.isfinite(array).all())
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckpointError(f"{file} holds NaN, infinite or complex numbers in {bad[0]}{more}; take another")


def _renamed(config: Any, sources: tuple[str, ...] | None) -> Any:
    if sources is None:
        return config
    count = len(config.sources)
    check(len(sources) == count, "sources", sources, f"name {count}, as many as the network has")
    return replace(config, sources=sources)
