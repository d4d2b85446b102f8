from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmss.models.winograd import (
    LEAST_FEATURES,
    LEAST_POSITIONS,
    _convolve_by_winograd,
    _convolve_directly,
    convolve_3x3,
)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("batch", "bins", "frames"), [(1, 4, 1), (2, 8, 5), (1, 16, 33)])
def test_winograd_equals_the_direct_convolution(batch, bins, frames):
    x, kernel = random(0, batch, bins, frames, 64), random(1, 3, 3, 64, 80)
    exact = _convolve_directly(x, kernel)
    error = _convolve_by_winograd(x, kernel) - exact
    assert np.linalg.norm(error) <= 2e-6 * np.linalg.norm(exact)


def test_only_a_cpu_transforms_and_only_wide_float32_images_of_some_size():
    def convolutions(features, dtype, platform, positions=LEAST_POSITIONS):
        x, kernel = jnp.zeros((1, 8, positions // 8, features), dtype), jnp.zeros((3, 3, features, features), dtype)
        program = jax.jit(convolve_3x3).trace(x, kernel).lower(lowering_platforms=(platform,))
        return program.as_text().count("stablehlo.convolution")

    assert convolutions(LEAST_FEATURES, jnp.float32, "cpu") == 6
    assert convolutions(LEAST_FEATURES - 1, jnp.float32, "cpu") == 1
    assert convolutions(LEAST_FEATURES, jnp.float32, "cpu", LEAST_POSITIONS - 8) == 1
    assert convolutions(LEAST_FEATURES, jnp.bfloat16, "cpu") == 1
    assert convolutions(LEAST_FEATURES, jnp.float32, "cuda") == 1
    assert convolutions(LEAST_FEATURES, jnp.float32, "tpu") == 1
