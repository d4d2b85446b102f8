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
from jaxmss.models.resunet import Blocks

PLAIN = ResidualBranch("both", lstm_from=9, attention_from=9)
CWS = replace(models.architecture("cws-small"), widths=(8, 8), bottleneck_levels=1, n_fft=64, hop=32)
HYBRID = HybridDemucsConfig(width=8, depth=2, n_fft=64, residual=PLAIN)
TRANSFORMER = replace(HYBRID, n_fft=256, segment=0.1, transformer=Transformer(layers=1, heads=2, width=12))
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("block", "convolutions"), [("residual", 2), ("mobilenet", 6)])
def test_a_block_keeps_the_images_of_its_convolutions_or_with_rematerialisation_its_input(block, convolutions, dtype):
    config, count = replace(CWS, block=block), 5
    x, existing = jax.ShapeDtypeStruct((1, 16, 16, 8), dtype), jax.ShapeDtypeStruct((1, 1, 16, 1), dtype)

    def images(remat: bool) -> float:
        network = Blocks(count, 8, config, dtype, train=True, remat=remat)

        def backward(variables: Any, x: jax.Array, existing: jax.Array) -> Any:
            return jax.vjp(lambda variables, x: network.apply(variables, x, existing, mutable=True), variables, x)[1]

        variables = jax.eval_shape(network.init, jax.random.key(0), x, existing)
        kept = jax.tree.leaves(jax.eval_shape(backward, variables, x, existing))
        return sum(array.size * array.dtype.itemsize for array in kept if array.size >= count * x.size) / (
            count * x.size * x.dtype.itemsize
        )

    # the last convolution's is not needed, but the block's input
    assert images(remat=False) == convolutions
    assert images(remat=True) == 1


@pytest.mark.parametrize("name", ["demucs", "hdemucs", "htdemucs"])
def test_rematerialisation_computes_levels_and_layers_of_demucs_again(name):
    network = DEMUCS[name]
    kept, again = (compiled(network, remat).as_text().count(" erf(") for remat in (False, True))
    assert again > 1.5 * kept > 0  # GELUs
