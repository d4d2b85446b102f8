"""Mixing on the device: 16-bit samples and gains to the mixtures and targets that a network learns from.

So a quarter of the bytes of float32 mixtures and targets cross to the device, and the host does nothing but read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int16

from jaxmss.data.clips import FULL_SCALE
from jaxmss.training.config import SUM, Part
from jaxmss.typing import Array, Float

Either = jax.Array | np.ndarray  # on its way to the device, or there


class Batch(NamedTuple):
    """What a batch is mixed from. Its slots ``p`` are those of `slots`, for every part in turn.

    Attributes:
      pcm: samples, zeros in slots that an example does not use.
      gain: factor of each slot: its sign is the polarity, 0 that it is not used.
      swap: whether the slot's channels are reversed.
    """

    pcm: Int16[Either, "b p t c"]
    gain: Float[Either, "b p"]
    swap: Bool[Either, "b p"]


def slots(part: Part) -> int:
    """Return how many stems a part may add up: of each of its chunks, those of the longest choice."""
    return part.count * max(len(choice.split(SUM)) for choice in part.choices)


def mix(
    batch: Batch, parts: Sequence[Part], sources: Sequence[str]
) -> tuple[Float[Array, "b c t"], Float[Array, "b j c t"]]:
    """Return the mixture, which is the sum of all parts, and the parts that are named like the `sources`, in order."""
    chunks = jnp.asarray(batch.pcm, jnp.float32) / FULL_SCALE * batch.gain[..., None, None]
    chunks = jnp.where(batch.swap[..., None, None], jnp.flip(chunks, -1), chunks)
    waveforms = {}
    first = 0
    for part in parts:
        waveforms[part.name] = chunks[:, first : first + slots(part)].sum(axis=1).transpose(0, 2, 1)
        first += slots(part)
    mixture = jnp.stack(list(waveforms.values())).sum(axis=0)
    return mixture, jnp.stack([waveforms[source] for source in sources], axis=1)
