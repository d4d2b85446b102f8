"""Turn a published PyTorch checkpoint into one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jaxmss import models
from jaxmss.checkpoints.store import check_new, save
from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.checkpoints.torch_names import from_state_dict
from jaxmss.config import check


def convert(architecture: str, file: Path, directory: Path, sources: tuple[str, ...] | None = None) -> None:
    """Read the weights of `architecture` from a PyTorch `file` and write a checkpoint to a new `directory`.

    `sources` renames the stems, for networks trained on others than the architecture's. PyTorch is not needed and no
    code of the file is run. Raises `InputError` for an unknown architecture, `CheckpointError` for a file that does not
    hold it or a directory that cannot be written; nothing is half-written.
    """
    config = models.architecture(architecture)
    if sources is not None:
        count = len(config.sources)
        check(len(sources) == count, "sources", sources, f"name {count}, as many as {architecture} has")
        config = replace(config, sources=sources)
    check_new(directory)
    state = find_state_dict(read_torch_file(file), file)
    save(directory, config, from_state_dict(state, models.variable_shapes(config), config, str(file)))
