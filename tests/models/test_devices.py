"""What networks know of other devices: each with its part of a batch finds what one device finds that has all of it."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated

from jaxmss.models.devices import drop

COMPARED = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxmss.demucs_config import Transformer
from jaxmss.models.cross_transformer import CrossTransformer
from jaxmss.models.devices import device_count, drop, mean_over_devices

network = CrossTransformer(Transformer(layers=2, heads=2, width=12, dropout=0.3))

def results(x):
    inputs = x.reshape(len(x), 6, 5, 40), x, None, None, True
    variables = network.init(jax.random.key(0), *inputs)
    spectral, temporal = network.apply(variables, *inputs, rngs={"dropout": jax.random.key(1)})
    return (drop(x, jax.random.key(1), 0.3), spectral, temporal), (mean_over_devices(x.mean(0)), device_count())

batch, whole = PartitionSpec(("data", "fsdp")), PartitionSpec()
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
divided = jax.shard_map(results, mesh=mesh, in_specs=batch, out_specs=(batch, whole), check_vma=False)
arrays = {}
for name, function in {"alone": results, "divided": divided}.items():
    (dropped, spectral, temporal), (mean, count) = jax.jit(function)(np.load(sys.argv[1])["x"])
    values = {"dropped": dropped, "spectral": spectral, "temporal": temporal, "mean": mean, "count": count}
    arrays |= {f"{name}/{key}": value for key, value in values.items()}
np.savez(sys.argv[1], **arrays)
"""


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, (8, 30, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def compared(x, tmp_path_factory) -> dict[str, np.ndarray]:
    """What one device finds, and what four find together."""
    file = tmp_path_factory.mktemp("compared") / "arrays.npz"
    np.savez(file, x=x)
    simulated.run([sys.executable, "-c", COMPARED, file], devices=4)
    with np.load(file) as arrays:
        return dict(arrays)


def test_the_same_is_dropped_whichever_device_has_an_example(compared):
    np.testing.assert_array_equal(compared["divided/dropped"], compared["alone/dropped"])


@pytest.mark.parametrize("branch", ["spectral", "temporal"])
def test_a_transformer_drops_the_same_whichever_device_has_an_example(compared, branch):
    np.testing.assert_allclose(compared[f"divided/{branch}"], compared[f"alone/{branch}"], rtol=0, atol=1e-5)


def test_dropping_keeps_the_expected_value_and_differs_between_examples(x):
    dropped = np.asarray(drop(jnp.asarray(x), jax.random.key(1), 0.3))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], x[kept] / 0.7, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.7, abs=0.02)  # 4.3 deviations of 9,600 draws
    assert len({example.tobytes() for example in kept}) == len(x)


def test_means_are_of_the_whole_batch(x, compared):
    np.testing.assert_allclose(compared["divided/mean"], x.mean(0), rtol=1e-6)
    assert (compared["divided/count"], compared["alone/count"]) == (4, 1)
