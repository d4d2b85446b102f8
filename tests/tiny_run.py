"""A training run of a tiny network, and states of it with random values: nothing needs to be compiled for them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss import models
from jaxmss.demucs_config import DemucsConfig, ResidualBranch
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Checkpoints, Config, Data
from jaxmss.training.state import TrainState, initial_state

# without running statistics, and of eight arrays: in a checkpoint each array takes a while, however small it is
SMALLEST = DemucsConfig(sources=("vocals",), width=4, depth=1, residual=ResidualBranch("none"), segment=1.0)


def config(**changes: Any) -> Config:
    """A run of a network with one level."""
    network = replace(
        models.architecture("cws-small"), widths=(2,), blocks=1, segment=1.0, context=0.25, sources=("vocals",)
    )
    fields = {"data": Data(batch=2, seconds=0.5), "checkpoints": Checkpoints(keep=2), **changes}
    return Config(**{"model": network, **fields})


def state(config: Config, step: int) -> TrainState:
    """The state of a run after `step` steps: random values that no two arrays and no two steps share."""
    random = np.random.default_rng(step)
    drawn = jax.tree.map(lambda leaf: jnp.array(random.uniform(0.5, 1.0, leaf.shape), leaf.dtype), _shapes(config))
    return drawn._replace(step=jnp.int32(step))


@functools.cache
def _shapes(config: Config) -> TrainState:
    return jax.eval_shape(lambda: initial_state(config))


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same arrays, bit for bit."""
    equal = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(np.asarray(x), np.asarray(y)), a, b)
    return bool(jax.tree.all(equal))


def save(checkpoints: RunCheckpoints, step: int, state: TrainState, sdr: float | None, over: str = "3 tracks") -> None:
    """Save a state and, where it was validated, its score and which tracks it is over."""
    checkpoints.save(step, state)
    if sdr is not None:
        checkpoints.score(step, sdr, over)
