"""Fourier transforms: against NumPy's, in both of the ways that they are computed, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmss.fft import irfft, irfft_by_matrix, rfft, rfft_by_matrix

SIZES = [1, 2, 5, 64, 512]


def signals(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((2, 3, n)).astype(np.float32)


def spectra(n: int) -> np.ndarray:
    return np.fft.rfft(signals(n)).astype(np.complex64)


@pytest.mark.parametrize("n", SIZES)
def test_the_library_and_the_matrices_of_a_tpu_agree_with_numpy(n):
    expected = np.fft.rfft(signals(n))
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(rfft(signals(n)), expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(jax.lax.complex(*rfft_by_matrix(n, signals(n))), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("n", SIZES)
def test_the_inverse_restores_the_signal(n):
    parts = spectra(n).real, spectra(n).imag
    np.testing.assert_allclose(irfft(spectra(n), n), signals(n), atol=2e-6)
    np.testing.assert_allclose(irfft_by_matrix(n, *parts), signals(n), atol=2e-6)


def test_the_inverse_ignores_what_no_real_signal_has():
    given = spectra(64) + 1j  # a constant and the Nyquist frequency have no phase
    expected = np.fft.irfft(given, 64)
    np.testing.assert_allclose(irfft(given, 64), expected, atol=1e-6)
    np.testing.assert_allclose(irfft_by_matrix(64, given.real, given.imag), expected, atol=1e-6)


@pytest.mark.parametrize("n", SIZES)
def test_gradients_are_those_of_the_library(n):
    weights = spectra(n)[0, 0]

    def of_spectra(transform):
        return jax.grad(lambda x: jnp.square(jnp.abs(transform(x) + weights)).sum())(signals(n))

    def of_signals(transform):
        return jax.grad(lambda y: jnp.square(transform(y, n) + signals(n)).sum())(jnp.asarray(spectra(n)))

    for gradient, expected in [
        (of_spectra(rfft), of_spectra(jnp.fft.rfft)),
        (of_signals(irfft), of_signals(jnp.fft.irfft)),
    ]:
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * float(jnp.abs(expected).max()))
