"""The project's own PyTorch twin of the whole network family: slow, plain, and the oracle for parity.

It is written from the facts about the published systems, not from the JAX port, carries their state_dict names, and is
itself held to their golden outputs (`test_twins.py`).

    twin = make_twin("cws-small", widths=(8, 8, 16, 16, 16, 16), subbands=2)
    estimate = twin(audio)  # (b, c, t) -> (b, j * c, t), source major

The overrides are the fields of `Architecture`: see there for their names, meanings and units.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .architectures import ARCHITECTURES, Architecture
from .track import separate_track
from .twin import Twin

__all__ = ["ARCHITECTURES", "Architecture", "Twin", "make_twin", "separate_track"]


def make_twin(arch: str, **overrides: Any) -> Twin:
    """A twin of `arch` in evaluation mode, freshly initialised from torch's global seed.

    `overrides` replaces fields of `Architecture`. Golden weights of whatever widths:
    `twin.load_state_dict({k: torch.from_numpy(v) for k, v in golden_state_dict(shapes).items()})`
    with `shapes = {k: tuple(v.shape) for k, v in twin.state_dict().items()}`.
    """
    return Twin(replace(ARCHITECTURES[arch], **overrides)).eval()
