from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_twins import dsp

from jaxmss.config import BYTESEP_FULLBAND, BYTESEP_SUBBAND, CWS
from jaxmss.masking import apply_maps, magnitude_and_phase

CONVENTIONS = [CWS, BYTESEP_SUBBAND, BYTESEP_FULLBAND]


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("sources", [1, 3])
def test_estimate_equals_the_definition_bin_by_bin(convention, sources):
    b, c, s, n, f = 2, 2, 4, 3, 5
    spectra = random(0, b, c, s, n, f) + 1j * random(1, b, c, s, n, f)
    maps = random(2, b, f, n, sources * 4 * c * s)
    ours = apply_maps(maps, *magnitude_and_phase(spectra, 1e-10), convention)
    assert ours.shape == (b, sources, c, s, n, f)
    for index in np.ndindex(b, sources, c, s, n, f):
        i, j, channel, band, frame, bin_ = index
        if convention.order == "map-channel-subband":
            at = [((j * 4 + m) * c + channel) * s + band for m in range(4)]
        else:
            at = [((j * c + channel) * 4 + m) * s + band for m in range(4)]
        mask, p_r, p_i, q = maps[i, bin_, frame, at].astype(np.float64)
        if convention.bounded_phase:
            p_r, p_i = np.tanh(p_r), np.tanh(p_i)
        if convention.bounded_residual:
            q = np.tanh(q)
        x = spectra[i, channel, band, frame, bin_]
        magnitude = max(abs(x) / (1 + np.exp(-mask)) + q, 0)
        expected = magnitude * x / abs(x) * complex(p_r, p_i) / abs(complex(p_r, p_i))
        np.testing.assert_allclose(ours[index], expected, rtol=2e-5, atol=2e-6)


def test_magnitude_has_the_floor_of_the_published_systems():
    spectra = random(3, 2, 7) + 1j * random(4, 2, 7)
    spectra[0, 0] = 0
    for ours, published in zip(
        magnitude_and_phase(spectra, 1e-8), dsp.polar(torch.from_numpy(spectra), 1e-8), strict=True
    ):
        np.testing.assert_allclose(ours, published, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_are_finite_at_silence_and_at_zero_maps(convention):
    def energy(spectra_real, maps):
        polar = magnitude_and_phase(jax.lax.complex(spectra_real, jnp.zeros_like(spectra_real)), 1e-8)
        return jnp.sum(jnp.abs(apply_maps(maps, *polar, convention).real))

    gradients = jax.grad(energy, argnums=(0, 1))(jnp.zeros((1, 2, 4, 3, 5)), jnp.zeros((1, 5, 3, 32)))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_zero_maps_are_silent():
    polar = magnitude_and_phase(random(5, 1, 2, 4, 3, 5) + 0j, 1e-8)
    assert not np.any(apply_maps(jnp.zeros((1, 5, 3, 32)), *polar, CWS))
