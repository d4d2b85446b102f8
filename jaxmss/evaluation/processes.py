"""Evaluation by several processes, on one host or many: each takes a share of the tracks, the first one reports.

The processes share the output folder, in which all of them write the tracks they have scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

from jaxmss.data.tracks import Track

_A_WEEK = 7 * 24 * 3600 * 1000  # ms: shares may differ by hours, and who waits costs nothing


def share(tracks: Sequence[Track]) -> Sequence[Track]:
    """Return the tracks of this process: one of every so many, so that shares are of one size."""
    return tracks[jax.process_index() :: jax.process_count()]


def reports() -> bool:
    """Tell whether it is for this process to report."""
    return jax.process_index() == 0


def merge(mine: Mapping[str, str], name: str) -> dict[str, str]:
    """Wait for all processes to have come here, and return what any of them brought.

    `name` is that of one meeting: each has another one.
    """
    if jax.process_count() == 1:
        return dict(mine)
    get_barrier_sync_fn()(key=f"jaxmss-{name}", timeout_ms=_A_WEEK)  # arrays can be exchanged for minutes only
    brought = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.array(len(brought))).max())
    padded = np.pad(brought, (0, longest - len(brought)), constant_values=ord(" "))
    every = multihost_utils.process_allgather(padded)
    return {key: value for row in every for key, value in json.loads(bytes(row)).items()}
