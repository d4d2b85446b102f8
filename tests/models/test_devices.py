"""What networks know of other devices: each with its part of a batch finds what one device finds that has all of it."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated

from jaxmss.models.devices import device_count, drop, mean_over_devices

DIVIDED = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxmss.models.devices import device_count, drop, mean_over_devices

def results(x):
    return drop(x, jax.random.key(1), 0.3), mean_over_devices(x.mean(0)), device_count()

batch, whole = PartitionSpec(("data", "fsdp")), PartitionSpec()
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
divided = jax.shard_map(results, mesh=mesh, in_specs=batch, out_specs=(batch, whole, whole), check_vma=False)
dropped, mean, count = jax.jit(divided)(np.load(sys.argv[1])["x"])
np.savez(sys.argv[1], dropped=dropped, mean=mean, count=count)
"""


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, (8, 30, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def divided(x, tmp_path_factory) -> dict[str, np.ndarray]:
    file = tmp_path_factory.mktemp("divided") / "arrays.npz"
    np.savez(file, x=x)
    simulated.run([sys.executable, "-c", DIVIDED, file], devices=4)
    with np.load(file) as arrays:
        return dict(arrays)


def test_the_same_is_dropped_whichever_device_has_an_example(x, divided):
    np.testing.assert_array_equal(divided["dropped"], drop(jnp.asarray(x), jax.random.key(1), 0.3))


def test_dropping_keeps_the_expected_value_and_differs_between_examples(x):
    dropped = np.asarray(drop(jnp.asarray(x), jax.random.key(1), 0.3))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], x[kept] / 0.7, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.7, abs=0.02)  # 4.4 deviations of 9,600 draws
    assert len({example.tobytes() for example in kept}) == len(x)


def test_means_are_of_the_whole_batch(x, divided):
    np.testing.assert_allclose(divided["mean"], x.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(mean_over_devices(jnp.asarray(x)), x)
    assert (divided["count"], device_count()) == (4, 1)
