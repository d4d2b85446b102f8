"""How far an array of ours is from one of PyTorch's."""

from __future__ import annotations

import numpy as np


def relative_error(ours, theirs) -> float:
    """The length of the difference, relative to theirs."""
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))
