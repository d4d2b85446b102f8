"""What a step of training reads and writes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmss import models
from jaxmss.training.config import Config
from jaxmss.training.optimizer import optimizer
from jaxmss.typing import PyTree, Variables


class TrainState(NamedTuple):
    """All that a run carries from step to step; float32, whatever the network computes in.

    Attributes:
      step: batches seen, those of skipped updates too.
      params: the network's parameters.
      batch_stats: its running statistics, empty for a network that has none.
      opt_state: of the optimizer.
      ema: exponential moving average of both, as `variables_of` gives them, or None.
      skipped: updates skipped in a row, up to now.
      skipped_total: updates skipped in the run.
    """

    step: PyTree
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree
    skipped: PyTree
    skipped_total: PyTree


def initial_state(config: Config) -> TrainState:
    """Return the state before the first step, drawn from `config.seed`. Call it under `jax.jit` or `eval_shape`."""
    second = jnp.zeros((1, config.model.channels, config.model.sample_rate))
    variables = models.build(config.model).init(jax.random.key(config.seed), second)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer(config).init(params),
        ema=variables_of(params, batch_stats) if config.optim.ema else None,
        skipped=jnp.int32(0),
        skipped_total=jnp.int32(0),
    )


def variables_of(params: PyTree, batch_stats: PyTree) -> Variables:
    """Return what the network takes: ``{"params": ..., "batch_stats": ...}``, without statistics where it has none."""
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
