"""One step of training, on one screen: mix, separate, compare, descend. It says nothing of devices: see `sharding`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxmss import models
from jaxmss.data.mixing import Batch, mix
from jaxmss.training.config import Config
from jaxmss.training.losses import loss
from jaxmss.training.optimizer import learning_rate, optimizer
from jaxmss.training.state import TrainState, variables_of
from jaxmss.typing import Array, PyTree

Metrics = dict[str, Array]

# parameters, statistics, step and examples to the loss, the gradients and the statistics that follow
Gradients = Callable[[PyTree, PyTree, Array, Batch], tuple[Array, PyTree, PyTree]]


def train_step(
    config: Config, over_devices: Callable[[Gradients], Gradients] = lambda gradients: gradients
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the pure function from a state and the global batch to the next state and its metrics, all scalars.

    `over_devices` has every device find the gradients with examples of its own, and takes the means.

    Metrics: ``loss``, ``learning_rate``, ``gradient_norm`` (before clipping), ``skipped`` (in a row up to now) and
    ``skipped_total``. Where the loss or the gradients are not finite, nothing is learned from the batch: the state
    stays as it was, but for the step and the two counts.
    """
    network = models.build(config.model, config.compute.dtype, config.compute.remat)
    schedule, descent = learning_rate(config), optimizer(config)

    def objective(params: PyTree, batch_stats: PyTree, batch: Batch, step: Array, part: Array) -> tuple[Array, PyTree]:
        mixture, targets = mix(batch, config.data.parts, config.model.sources)
        variables = {"params": params, "batch_stats": batch_stats}
        dropout = {"dropout": jax.random.fold_in(jax.random.key(config.seed), part)}
        estimates, updated = network.apply(variables, mixture, train=True, mutable=["batch_stats"], rngs=dropout)
        return loss(estimates, targets, config.loss, step), updated.get("batch_stats", {})

    differentiated = over_devices(_over_parts(objective, config.compute.accumulate))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        value, gradients, batch_stats = differentiated(state.params, state.batch_stats, state.step, batch)
        norm, rate = optax.tree.norm(gradients), schedule(state.step)
        direction, opt_state = descent.update(gradients, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        ema = _averaged(config.optim.ema, state, variables_of(params, batch_stats))
        learned = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)

        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), learned, state)
        skipped = jnp.where(finite, 0, state.skipped + 1)
        skipped_total = state.skipped_total + (1 - finite)
        metrics = {"loss": value, "learning_rate": rate, "gradient_norm": norm}
        metrics |= {"skipped": skipped, "skipped_total": skipped_total}
        return kept._replace(step=state.step + 1, skipped=skipped, skipped_total=skipped_total), metrics

    return step


def _over_parts(objective: Callable, parts: int) -> Gradients:
    """Return what differentiates `objective` for a batch that is cut into `parts`, seen one after another.

    Losses and gradients are averaged, and the running statistics move on with each part. Every part holds every
    `parts`-th example, so that each device cuts the examples that it has. Parts are numbered through all steps, for
    draws of their own.
    """
    differentiated = jax.value_and_grad(objective, has_aux=True)

    def whole(params: PyTree, batch_stats: PyTree, step: Array, batch: Batch) -> tuple[Array, PyTree, PyTree]:
        (value, batch_stats), gradients = differentiated(params, batch_stats, batch, step, step)
        return value, gradients, batch_stats

    def in_parts(params: PyTree, batch_stats: PyTree, step: Array, batch: Batch) -> tuple[Array, PyTree, PyTree]:
        def add(carried: tuple, numbered: tuple[Array, Batch]) -> tuple[tuple, None]:
            value, gradients, batch_stats = carried
            number, part = numbered
            (more, batch_stats), ascent = differentiated(params, batch_stats, part, step, number)
            return (value + more, jax.tree.map(jnp.add, gradients, ascent), batch_stats), None

        cut = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        numbers = step * parts + jnp.arange(parts)
        (value, gradients, batch_stats), _ = lax.scan(add, (jnp.float32(0), zeros, batch_stats), (numbers, cut))
        return value / parts, jax.tree.map(lambda gradient: gradient / parts, gradients), batch_stats

    return whole if parts == 1 else in_parts


def _averaged(decay: float, state: TrainState, variables: PyTree) -> PyTree:
    """Move the exponential moving average towards `variables`; early values are forgotten sooner than later ones."""
    if state.ema is None:
        return None
    updates = state.step - state.skipped_total
    share = 1 - jnp.minimum(decay, (1 + updates) / (10 + updates))
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), state.ema, variables)
