"""Files as the package demucs writes them."""

from __future__ import annotations

from typing import Any

import torch
from demucs.states import get_state


def contents(network: torch.nn.Module, half: bool = True) -> dict[str, Any]:
    """Return what `demucs.states.serialize_model` does, which needs OmegaConf for the training's arguments alone."""
    args, kwargs = network._init_args_kwargs
    state = get_state(network, quantizer=None, half=half)
    return {"klass": type(network), "args": args, "kwargs": kwargs, "state": state, "training_args": {"seed": 42}}
