"""Wiener filtering against the package norbert in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import norbert
import numpy as np
import optimised
import pytest

from jaxmss.errors import InputError
from jaxmss.stft import istft, stft
from jaxmss.wiener import filter_stems, ratio_mask, wiener

STEMS = 3

jitted = optimised.jit(wiener, static_argnums=2)
jitted_audio = optimised.jit(filter_stems, static_argnums=2, static_argnames=("n_fft", "hop"))


def noise(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def scene(channels: int, frames: int = 9, bins: int = 17, *, width: float = 1.0, level: float = 1.0) -> tuple:
    """Estimates that leak, and the mixture: sources with silences in steady directions, alike for a small `width`."""
    envelope = np.exp(np.random.RandomState(0).standard_normal((STEMS, 1, frames, bins)))
    direction = 1 + width * noise(1, STEMS, channels, 1, 1)
    sources = level * envelope * noise(2, STEMS, 1, frames, bins) * direction
    sources[:, :, frames // 2] = 0  # a silent frame
    sources[..., bins // 2] = 0  # a silent bin
    sources[0, :, :, bins // 3] = 0  # one silent source
    leak = np.einsum("ij,jcnf->icnf", np.eye(STEMS) * 0.8 + 0.1, sources)
    return leak.astype(np.complex64), sources.sum(0).astype(np.complex64)


def reference(spectra: np.ndarray, mixture: np.ndarray, iterations: int) -> np.ndarray:
    x = mixture.astype(complex).transpose(1, 2, 0)
    y = spectra.astype(complex).transpose(2, 3, 1, 0)
    peak = max(1, np.abs(x).max() / 10)  # as norbert.wiener scales its own first estimate
    return peak * norbert.expectation_maximization(y / peak, x / peak, iterations)[0].transpose(3, 2, 0, 1)


def error(ours: jax.Array, expected: np.ndarray) -> float:
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("level", [1e-3, 1.0, 300.0])  # norbert scales what is loud, and its noise hides what is quiet
def test_filtered_stems_equal_norberts(channels, iterations, level):
    spectra, mixture = scene(channels, level=level)
    ours, expected = jitted(spectra, mixture, iterations), reference(spectra, mixture, iterations)
    for stem, stem_expected in zip(ours, expected, strict=True):
        assert error(stem, stem_expected) < 1e-5


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("quiet", [0.3, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("channel", [0, 1])
def test_stems_that_one_channel_barely_holds_equal_norberts(channel, quiet, iterations):
    gains = np.ones((2, 1, 1), np.float32)
    gains[channel] = quiet
    spectra, mixture = scene(2, width=0.3)
    spectra, mixture = spectra * gains, mixture * gains
    assert error(jitted(spectra, mixture, iterations), reference(spectra, mixture, iterations)) < 1e-5


@pytest.mark.parametrize("iterations", [1, 10])
@pytest.mark.parametrize("silent", [0, 1, "in turns"])
def test_stems_of_a_silent_channel_equal_norberts(silent, iterations):
    gains = np.ones((2, 1, 17), np.float32)
    if silent == "in turns":  # each bin on one side
        gains[0, :, ::2] = gains[1, :, 1::2] = 0
    else:
        gains[silent] = 0
    spectra, mixture = scene(2)
    spectra, mixture = spectra * gains, mixture * gains
    filtered = jitted(spectra, mixture, iterations)
    assert error(filtered, reference(spectra, mixture, iterations)) < 1e-5
    assert not np.any(np.asarray(filtered)[np.broadcast_to(gains == 0, filtered.shape)])


@pytest.mark.parametrize("width", [0.0, 1e-4, 1e-2])
def test_nearly_mono_stems_equal_norberts_though_their_covariances_are_nearly_singular(width):
    spectra, mixture = scene(2, width=width)
    assert error(jitted(spectra, mixture, 1), reference(spectra, mixture, 1)) < 1e-5


@pytest.mark.parametrize("gain", [1.0, 0.9, 0.7, -0.8, 0.3])
def test_stems_of_a_mono_track_with_one_channel_turned_down_equal_norberts(gain):
    time = np.arange(44100) / 44100
    tones = [sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in range(1, 12)) for pitch in (110, 165, 220.5)]
    stems = 0.05 * np.stack(tones)[:, None] * np.array([1, gain])[:, None]
    mixture = np.round(stems.sum(0) * 32768) / 32768  # all that tells the channels apart is the rounding of 16 bits
    estimates = 0.85 * stems + 0.05 * mixture
    spectra, mixed = (np.asarray(stft(jnp.asarray(x, jnp.float32), 4096, 1024)) for x in (estimates, mixture))
    ours, expected = jitted(spectra, mixed, 1), reference(spectra, mixed, 1)
    for stem, stem_expected in zip(ours, expected, strict=True):
        assert error(stem, stem_expected) < 1e-6


@pytest.mark.parametrize("gains", [(1, 0), (1, 0.3), (0, 1)])
def test_stems_in_one_direction_equal_norberts(gains):
    spectra, mixture = (array[..., :1, :, :] * np.float32(gains)[:, None, None] for array in scene(1))
    ours = jitted(spectra, mixture, 2)
    assert error(ours, reference(spectra, mixture, 2)) < 1e-5
    assert not np.any(np.abs(ours[:, np.array(gains) == 0]) > 1e-6)  # a silent channel stays silent


@pytest.mark.parametrize(("frames", "bins"), [(1, 1), (1, 5), (2, 1), (31, 3)])
def test_any_size_equals_norberts(frames, bins):
    spectra, mixture = noise(3, 2, 2, frames, bins), noise(4, 2, frames, bins)
    assert error(jitted(spectra, mixture, 1), reference(spectra, mixture, 1)) < 1e-5


@pytest.mark.parametrize("channels", [1, 2])
def test_ratio_mask_and_filter_equal_norberts_wiener(channels):
    mixture = 50 * noise(5, 2, 9, 17)
    magnitudes = np.abs(noise(6, STEMS, channels, 9, 17))
    magnitudes[..., 3] = 0
    magnitudes[0, :, 4] = 0
    v, x = magnitudes.astype(float).transpose(2, 3, 1, 0), mixture.astype(complex).transpose(1, 2, 0)
    masked = ratio_mask(magnitudes, mixture)
    assert error(masked, norbert.softmask(v, x).transpose(3, 2, 0, 1)) < 1e-6
    assert error(jitted(masked, mixture, 1), norbert.wiener(v, x).transpose(3, 2, 0, 1)) < 1e-5


def test_each_of_a_batch_is_filtered_by_itself():
    quiet, loud = scene(2), scene(2, width=0.1, level=100.0)
    both = jitted(*(np.stack(pair)[:, None] for pair in zip(quiet, loud, strict=True)), 2)
    for ours, (spectra, mixture) in zip(both[:, 0], (quiet, loud), strict=True):
        assert error(ours, jitted(spectra, mixture, 2)) < 1e-6


def test_filtered_stems_sum_to_the_mixture():
    spectra, mixture = scene(2)
    assert error(spectra.sum(0), 1.3 * mixture) > 0.1  # before, they do not
    assert error(jitted(0.7 * spectra, mixture, 1).sum(0), mixture) < 1e-5


def test_plain_filter_equals_the_jitted_one():
    spectra, mixture = scene(2)
    assert error(wiener(spectra, mixture, 1), jitted(spectra, mixture, 1)) < 1e-6


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
def energy(spectra_real, spectra_imag, mixture_real, mixture_imag):
    filtered = wiener(jax.lax.complex(spectra_real, spectra_imag), jax.lax.complex(mixture_real, mixture_imag), 2)
    return jnp.sum(filtered.real**2 + filtered.imag**2)


@pytest.mark.parametrize("level", [0.0, 1e-20, 1e-9, 1.0])
def test_results_and_gradients_are_finite_at_silence(level):
    spectra, mixture = scene(2, level=level)
    value, gradients = energy(spectra.real, spectra.imag, mixture.real, mixture.imag)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_no_iterations_give_the_estimates_back():
    spectra, mixture = scene(2)
    np.testing.assert_array_equal(wiener(spectra, mixture, 0), spectra)


def test_negative_iterations_are_refused():
    with pytest.raises(InputError, match=r"iterations \(=-1\) must not be negative"):
        wiener(*scene(2), -1)


def waves(channels: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Stems that leak, and the mixture."""
    stems = np.random.RandomState(7).standard_normal((STEMS, channels, samples)).astype(np.float32)
    return 0.8 * stems + 0.1 * stems.sum(0), stems.sum(0)


def test_filtered_audio_equals_norberts_between_the_same_transforms():
    stems, mixture = waves(2, 5001)
    expected = reference(np.asarray(stft(stems, 512, 128)), np.asarray(stft(mixture, 512, 128)), 2)
    expected = istft(expected.astype(np.complex64), 512, 128, 5001)
    assert error(jitted_audio(stems, mixture, 2, n_fft=512, hop=128), expected) < 1e-5


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_short_audio_is_filtered_and_sums_to_the_mixture(samples):
    stems, mixture = waves(2, samples)
    filtered = jitted_audio(stems, mixture, 1, n_fft=64, hop=16)
    assert filtered.shape == stems.shape
    np.testing.assert_allclose(filtered.sum(0), mixture, atol=1e-4)


def test_silence_around_a_window_does_not_change_it():
    stems, mixture = waves(2, 4096)
    stems, mixture = (np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(512, 512)]) for audio in (stems, mixture))
    wide = [np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(1280, 1280)]) for audio in (stems, mixture)]
    ours = jitted_audio(stems, mixture, 2, n_fft=512, hop=128)
    np.testing.assert_allclose(jitted_audio(*wide, 2, n_fft=512, hop=128)[..., 1280:-1280], ours, atol=1e-5)
