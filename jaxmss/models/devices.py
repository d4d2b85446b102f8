"""What a network has to know of the other devices where each is given a part of the batch, inside `jax.shard_map`.

All axes of the mesh that are manual there are taken to divide the batch. Outside there are none: the batch is whole,
though `jax.jit` may cut it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxmss.typing import Array, Float

MEAN = "mean over devices"  # what rematerialisation knows it by: to compute it again, devices would have to talk again


def mean_over_devices(x: Float[Array, "*_"]) -> Float[Array, "*_"]:
    """Return the mean of what each device has: that over the whole batch, if `x` is one over a part of it."""
    axes = _axes()
    return checkpoint_name(lax.pmean(x, axes) if axes else x, MEAN)


def device_count() -> int:
    """Return how many devices have a part of the batch."""
    axes = _axes()
    return lax.axis_size(axes) if axes else 1


def drop(x: Float[Array, "b ..."], key: Array, share: float) -> Float[Array, "b ..."]:
    """Return `x` with a `share` of its values set to 0, drawn by `key`, and the others scaled to make up for them.

    They are the same of an example, whichever device has it.
    """
    axes = _axes()
    first = lax.axis_index(axes) * len(x) if axes else 0
    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(len(x)))
    kept = jax.vmap(lambda each: jax.random.bernoulli(each, 1 - share, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - share), 0)


def _axes() -> tuple[str, ...]:
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)
