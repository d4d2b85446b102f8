"""What the compiler makes of the gradients: what is to be computed again is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
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


def test_rematerialisation_computes_blocks_again():
    kept, again = (compiled(CWS, remat) for remat in (False, True))
    assert again.cost_analysis()["flops"] > 1.05 * kept.cost_analysis()["flops"]


@pytest.mark.parametrize("name", ["demucs", "hdemucs", "htdemucs"])
def test_rematerialisation_computes_levels_and_layers_of_demucs_again(name):
    network = DEMUCS[name]
    kept, again = (compiled(network, remat).as_text().count(" erf(") for remat in (False, True))
    assert again > 1.5 * kept > 0  # GELUs
