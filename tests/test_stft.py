from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_weights import GOLDEN, wave
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmss.errors import InputError
from jaxmss.stft import istft, stft

SETTINGS = [(512, 110), (2048, 441)]
LONGEST = 1500  # samples
quick_stft = jax.jit(stft, static_argnames=("n_fft", "hop", "pad_mode"))
quick_istft = jax.jit(istft, static_argnames=("n_fft", "hop", "length"))


def exact_stft(audio: np.ndarray, n_fft: int, hop: int, pad_mode: str = "reflect") -> np.ndarray:
    """The definition, in float64."""
    padded = np.pad(audio.astype(np.float64), n_fft // 2, mode=pad_mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.stack([np.fft.rfft(padded[i * hop :][:n_fft] * window) for i in range(len(audio) // hop + 1)])


@pytest.mark.parametrize(("n_fft", "hop"), SETTINGS)
def test_spectrogram_reproduces_the_published_one(n_fft, hop):
    golden = np.load(GOLDEN / "stft.npz")
    expected = golden[f"real_{n_fft}"][0] + 1j * golden[f"imag_{n_fft}"][0]
    audio = wave(2, (1, 11025))
    ours = stft(audio, n_fft, hop)[:, ::7]
    # relative to the largest bin: the published float32 figures are themselves up to 2.5e-6 off the exact ones
    peak = np.abs(expected).max()
    np.testing.assert_allclose(ours.real, expected.real, rtol=0, atol=1e-6 * peak)
    np.testing.assert_allclose(ours.imag, expected.imag, rtol=0, atol=1e-6 * peak)
    exact = exact_stft(audio[0], n_fft, hop)[::7]
    assert np.abs(ours[0] - exact).max() < np.abs(expected[0] - exact).max()


@pytest.mark.parametrize(("n_fft", "hop"), SETTINGS)
def test_inverse_reproduces_the_published_one(n_fft, hop):
    golden = np.load(GOLDEN / "stft.npz")
    spectra = stft(wave(2, (1, 11025)), n_fft, hop)
    np.testing.assert_allclose(istft(spectra, n_fft, hop, 11025), golden[f"istft_{n_fft}"], rtol=0, atol=1e-6)
    real, imag = (
        np.random.RandomState(seed).standard_normal((1, 1, *spectra.shape[1:])).astype(np.float32) for seed in (3, 4)
    )
    inconsistent = istft((real + 1j * imag)[0], n_fft, hop, 11025)
    np.testing.assert_allclose(inconsistent, golden[f"istft_inconsistent_{n_fft}"], rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(
    t=st.integers(1, 2000),
    leading=st.lists(st.integers(1, 3), max_size=3),
    mode=st.sampled_from(["reflect", "constant"]),
)
def test_round_trip_restores_every_sample(t, leading, mode):
    audio = wave(t, (*leading, t))
    spectra = quick_stft(audio, 512, 110, pad_mode=mode)
    assert spectra.shape == (*leading, t // 110 + 1, 257)
    np.testing.assert_allclose(quick_istft(spectra, 512, 110, t), audio, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, LONGEST), mode=st.sampled_from(["reflect", "constant"]))
def test_a_length_makes_what_follows_it_absent(length, mode):
    audio = wave(length, (2, length))
    longer = np.full((2, LONGEST), np.nan, np.float32)
    longer[:, :length] = audio
    lengths = jnp.array([length, length])
    alone = [exact_stft(channel, 512, 110, mode) for channel in audio]
    spectra = quick_stft(longer, 512, 110, lengths=lengths, pad_mode=mode)
    frames = len(alone[0])
    np.testing.assert_allclose(spectra[:, :frames], alone, atol=1e-5)
    assert not np.any(spectra[:, frames:])
    inverse = quick_istft(spectra, 512, 110, LONGEST, lengths=lengths)
    np.testing.assert_allclose(inverse[:, :length], audio, atol=1e-5)
    assert not np.any(inverse[:, length:])


def test_empty_audio_has_one_silent_frame_and_comes_back_empty():
    spectra = stft(np.zeros((2, 0), np.float32), 512, 110)
    assert spectra.shape == (2, 1, 257)
    assert not np.any(spectra)
    assert istft(spectra, 512, 110, 0).shape == (2, 0)


def test_gradient_of_the_round_trip_is_that_of_the_identity():
    audio, direction = wave(1, (1, 700)), wave(2, (1, 700))
    through = lambda x: jnp.sum(istft(stft(x, 512, 110), 512, 110, 700) * direction)  # noqa: E731
    np.testing.assert_allclose(jax.grad(through)(audio), direction, atol=1e-5)


def test_an_unknown_padding_is_refused():
    with pytest.raises(InputError, match="'refelct' cannot be used; choose reflect or constant"):
        stft(wave(1, (1, 700)), 512, 110, pad_mode="refelct")
