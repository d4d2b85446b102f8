"""Convolutions and their gradients against XLA's own."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax import lax

from jaxmss.models.convolution import SAME_3X3, convolve, convolve_depthwise
from jaxmss.models.winograd import convolve_3x3


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def direct(x: jax.Array, kernel: jax.Array, padding=SAME_3X3, groups: int = 1) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=layout, feature_group_count=groups, precision="highest"
    )


def assert_same(ours: Callable, expected: Callable, x: np.ndarray, kernel: np.ndarray, tolerance: float) -> None:
    """Compare outputs and both gradients, relative to their norms."""

    def outputs_and_gradients(f: Callable) -> tuple:
        outputs, transpose = jax.vjp(f, x, kernel)
        return outputs, *transpose(random(2, *outputs.shape).astype(outputs.dtype))

    pairs = zip(jax.jit(lambda: outputs_and_gradients(ours))(), outputs_and_gradients(expected), strict=True)
    for actual, exact in pairs:
        assert actual.shape == exact.shape
        assert actual.dtype == exact.dtype
        assert np.linalg.norm(actual - exact) <= tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize(
    "padding", [((1, 1), (1, 1)), ((1, 0), (1, 0)), ((0, 1), (0, 1)), ((2, 0), (0, 0)), ((0, 0), (0, 0))]
)
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3), (5, 5)])
@pytest.mark.parametrize(("bins", "frames"), [(1, 1), (4, 7), (64, 40)])
def test_convolutions_and_their_gradients_are_xlas(padding, inputs, outputs, bins, frames):
    size = [sum(sides) + 1 for sides in padding]
    x, kernel = random(0, 2, bins, frames, inputs), random(1, *size, inputs, outputs)
    assert_same(lambda x, k: convolve(x, k, padding), lambda x, k: direct(x, k, padding), x, kernel, 1e-6)


@pytest.mark.parametrize(("batch", "bins", "frames"), [(1, 1, 1), (2, 4, 7), (3, 64, 40)])
def test_depthwise_convolutions_and_their_gradients_are_xlas(batch, bins, frames):
    x, kernel = random(0, batch, bins, frames, 6), random(1, 3, 3, 1, 6)
    assert_same(convolve_depthwise, lambda x, k: direct(x, k, groups=6), x, kernel, 1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (64, 80), (128, 64), (8, 64)])
def test_wide_3x3_convolutions_and_their_gradients_are_xlas(inputs, outputs):
    x, kernel = random(0, 2, 8, 21, inputs), random(1, 3, 3, inputs, outputs)
    assert_same(convolve_3x3, direct, x, kernel, 2e-6)


def test_bfloat16_stays_bfloat16():
    x, kernel = (random(seed, *shape).astype("bfloat16") for seed, shape in enumerate([(1, 4, 5, 8), (3, 3, 8, 8)]))
    assert_same(convolve_3x3, direct, x, kernel, 1e-6)
    assert_same(convolve_depthwise, lambda x, k: direct(x, k, groups=8), x, kernel[:, :, :1], 1e-6)


def test_float32_stays_float32_where_float64_is_enabled():
    x, kernel = random(0, 1, 4, 7, 6), random(1, 3, 3, 6, 8)
    with jax.enable_x64(True):
        assert_same(lambda x, k: convolve(x, k, SAME_3X3), direct, x, kernel, 1e-6)
        assert_same(convolve_depthwise, lambda x, k: direct(x, k, groups=6), x, kernel[:, :, :1, :6], 1e-6)
