"""Programs for the gradients of small networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from jaxmss import models
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig, ResidualBranch, Transformer

PLAIN = ResidualBranch("both", lstm_from=9, attention_from=9)
CWS = replace(models.architecture("cws-small"), widths=(8, 8), bottleneck_levels=1, n_fft=64, hop=32)
HYBRID = HybridDemucsConfig(width=8, depth=2, n_fft=64, residual=PLAIN)
TRANSFORMER = replace(HYBRID, n_fft=256, segment=0.1, transformer=Transformer(layers=2, heads=2, width=12))
DEMUCS = {"demucs": DemucsConfig(width=8, depth=2, residual=PLAIN), "hdemucs": HYBRID, "htdemucs": TRANSFORMER}


def compiled(config: Any, remat: bool) -> Compiled:
    """The program of two examples."""
    network = models.build(config, remat=remat)

    def loss(params: Any, others: Any, mixture: jax.Array) -> jax.Array:
        keys = {"dropout": jax.random.key(0)}
        inputs = {"params": params, **others}
        estimates, _ = network.apply(inputs, mixture, train=True, mutable=["batch_stats"], rngs=keys)
        return jnp.square(estimates).mean()

    others = dict(models.variable_shapes(config))
    params = others.pop("params")
    return jax.jit(jax.grad(loss)).lower(params, others, jax.ShapeDtypeStruct((2, 2, 4410), jnp.float32)).compile()
