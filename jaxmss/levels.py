"""The level of a track, to which some networks want it brought before it is cut: mean and deviation of its mono mix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxmss.chunking import Block

FLOOR = 1e-8  # added to the deviation, by which is divided


class Level(NamedTuple):
    """Mean and deviation of a track's mono mix; with `FLOOR` the latter is what Demucs divides by."""

    mean: float
    deviation: float

    @property
    def scale(self) -> float:
        """What a track is divided by."""
        return self.deviation + FLOOR


def measure(blocks: Iterable[Block]) -> Level:
    """Return the level of a stream of blocks (c, t) of any size, in the memory of one.

    The mono mix is the mean of the channels, the deviation that of a sample (divided by ``t - 1``), as in
    `demucs.api.Separator`; 0 for fewer than two samples. Moments of blocks are merged in float64 around their own means
    (Chan, Golub, LeVeque, 1979), so a large mean or a long track costs no digits.
    """
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        mono = block.mean(0, dtype=np.float64)
        if not mono.size:
            continue
        own = mono.mean()
        total = count + mono.size
        squares += np.square(mono - own).sum() + (own - mean) ** 2 * count * mono.size / total
        mean += (own - mean) * mono.size / total
        count = total
    return Level(float(mean), float(np.sqrt(squares / (count - 1))) if count > 1 else 0.0)
