"""Adam, and AMSGrad as PyTorch computes it, and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmss.training.config import Config
from jaxmss.typing import Array, Float, Int, PyTree

DECAY_MEAN, DECAY_SQUARE, EPSILON = 0.9, 0.999, 1e-8


def learning_rate(config: Config) -> Callable[[int | Int[Array, ""]], Float[Array, ""]]:
    """Return the learning rate as a function of the step, counted from 0.

    It rises linearly from 0 in the steps of `warmup`; from there on it is ``lr * decay ** (step // period)``, where
    the periods of `decay_every` count from step 0 too, as in the published recipes.
    """
    optim = config.optim
    warmup = config.steps(optim.warmup) if optim.warmup else 0
    period = config.steps(optim.decay_every)

    def schedule(step: int | Int[Array, ""]) -> Float[Array, ""]:
        decayed = jnp.float32(optim.decay) ** (step // period)
        return optim.lr * jnp.where(step < warmup, step / max(warmup, 1), decayed)

    return schedule


def optimizer(config: Config) -> optax.GradientTransformation:
    """Return the transformation of gradients into the direction to step against, after clipping to `optim.clip`.

    The step to take is ``-learning_rate(step)`` times it: the learning rate follows the steps of the run, which count
    on when an update is skipped, and the moments follow the updates.
    """
    clip = config.optim.clip
    adam = amsgrad() if config.optim.amsgrad else optax.scale_by_adam(DECAY_MEAN, DECAY_SQUARE, EPSILON)
    return optax.chain(optax.identity() if clip is None else optax.clip_by_global_norm(clip), adam)


class AMSGradState(NamedTuple):
    """What AMSGrad keeps of past gradients.

    Attributes:
      updates: so far.
      mean: decaying sum of gradients, the first moment.
      square: decaying sum of squared gradients, the second moment.
      greatest: that `square` ever was, for each parameter.
    """

    updates: Int[Array, ""]
    mean: PyTree
    square: PyTree
    greatest: PyTree


def amsgrad() -> optax.GradientTransformation:
    """Return Adam with AMSGrad (Reddi et al., ICLR 2018), without learning rate, as PyTorch computes it.

    PyTorch takes the greatest of the second moments as they are and corrects its bias towards zero afterwards. Optax
    (`scale_by_amsgrad`) takes the greatest of the corrected ones, which a single large gradient early on dominates for
    good, or leaves out the correction.
    """

    def init(params: PyTree) -> AMSGradState:
        mean, square, greatest = (optax.tree.zeros_like(params) for _ in range(3))
        return AMSGradState(jnp.zeros((), jnp.int32), mean, square, greatest)

    def update(gradients: PyTree, state: AMSGradState, params: PyTree = None) -> tuple[PyTree, AMSGradState]:
        del params
        updates = state.updates + 1
        mean = jax.tree.map(lambda m, g: m + (1 - DECAY_MEAN) * (g - m), state.mean, gradients)
        square = jax.tree.map(lambda v, g: DECAY_SQUARE * v + (1 - DECAY_SQUARE) * g * g, state.square, gradients)
        greatest = jax.tree.map(jnp.maximum, state.greatest, square)
        # 1 - decay ** count, without the cancellation that would leave four digits of it in float32
        mean_share, square_share = (-jnp.expm1(updates * math.log(decay)) for decay in (DECAY_MEAN, DECAY_SQUARE))
        scale = 1 / jnp.sqrt(square_share)
        direction = jax.tree.map(lambda m, v: m / mean_share / (jnp.sqrt(v) * scale + EPSILON), mean, greatest)
        return direction, AMSGradState(updates, mean, square, greatest)

    return optax.GradientTransformation(init, update)
