"""Songs to train on: named stems, read at random places as 16-bit samples. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int16

Pcm = Int16[np.ndarray, "t c"]


class Clip(Protocol):
    """A recording of 16-bit samples, wherever they lie.

    Attributes:
      rate: in Hz.
      channels: of each sample.
      samples: length.
    """

    rate: int
    channels: int
    samples: int

    def read(self, start: int, count: int) -> Pcm:
        """Return the samples from `start` to `start + count`, which must lie within; from any thread."""
        ...


@dataclass(frozen=True)
class Song:
    """Stems that belong together.

    Attributes:
      name: of the song.
      clips: the recording of each stem, by its name.
    """

    name: str
    clips: Mapping[str, Clip]
