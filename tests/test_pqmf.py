from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from golden_weights import GOLDEN, wave
from hypothesis import given, settings
from hypothesis import strategies as st
from torchsubband.pqmf import PQMF

from jaxmss import pqmf
from jaxmss.errors import InputError


@pytest.mark.parametrize("subbands", [2, 4, 8])
@pytest.mark.parametrize(("prefix", "t", "tail_padding"), [("", 8192, False), ("padded_", 8191, True)])
def test_filter_bank_reproduces_the_published_one(subbands, prefix, t, tail_padding):
    golden = np.load(GOLDEN / "pqmf.npz")
    bands = pqmf.analyze(wave(1, (1, 2, t)), subbands, tail_padding)
    analysis = golden[f"{prefix}analysis_{subbands}"]
    np.testing.assert_allclose(bands.reshape(analysis.shape), analysis, rtol=0, atol=1e-6)
    audio = pqmf.synthesize(bands, t, tail_padding)
    np.testing.assert_allclose(audio, golden[f"{prefix}synthesis_{subbands}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("subbands", [2, 4, 8])
def test_filter_bank_equals_torchsubband(subbands):
    theirs, audio = PQMF(subbands, 64), wave(2, (3, 2, 4000))
    bands = pqmf.analyze(audio, subbands, tail_padding=True)
    expected = theirs.analysis(torch.from_numpy(audio))
    np.testing.assert_allclose(bands.reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-6)
    back = pqmf.synthesize(bands, tail_padding=True)
    np.testing.assert_allclose(back, theirs.synthesis(expected).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("subbands", "decibel"), [(2, 90), (4, 90), (8, 65)])
def test_round_trip_with_tail_padding_is_near_perfect_to_the_last_sample(subbands, decibel):
    audio = wave(3, (2, 10_007))
    error = pqmf.synthesize(pqmf.analyze(audio, subbands, True), 10_007, True) - audio
    assert 10 * np.log10(np.sum(audio**2) / np.sum(error**2)) > decibel
    assert np.abs(error[:, -64:]).max() < 10 ** (-decibel / 20)


@settings(deadline=None, max_examples=15)
@given(
    t=st.integers(0, 300),
    leading=st.lists(st.integers(1, 3), max_size=3),
    subbands=st.sampled_from([1, 2, 4, 8]),
    tail_padding=st.booleans(),
)
def test_any_length_and_leading_axes_give_whole_blocks_and_come_back(t, leading, subbands, tail_padding):
    audio = wave(t, (*leading, t))
    bands = pqmf.analyze(audio, subbands, tail_padding)
    tail = 64 if tail_padding and subbands > 1 else 0
    assert bands.shape == (*leading, subbands, -(-(t + tail) // subbands))
    back = pqmf.synthesize(bands, t, tail_padding)
    assert back.shape == audio.shape
    exact = t if tail or subbands == 1 else max(t - 63, 0)  # the filters ring for 63 more samples
    np.testing.assert_allclose(back[..., :exact], audio[..., :exact], atol=1e-3)


def test_leading_axes_are_independent():
    audio = wave(4, (2, 3, 100))
    one = pqmf.analyze(audio[1, 2], 4)
    np.testing.assert_allclose(pqmf.analyze(audio, 4)[1, 2], one, rtol=0, atol=1e-7)


def test_one_subband_is_the_identity():
    audio = wave(5, (2, 77))
    assert np.array_equal(pqmf.analyze(audio, 1)[:, 0], audio)
    assert np.array_equal(pqmf.synthesize(pqmf.analyze(audio, 1)), audio)


def test_gradient_is_that_of_a_linear_map():
    audio, direction = wave(6, (1, 64)), wave(7, (1, 64))
    gradient = jax.grad(lambda x: jnp.sum(pqmf.analyze(x, 4) ** 2) / 2)(audio)
    expected = jnp.sum(pqmf.analyze(audio, 4) * pqmf.analyze(direction, 4))
    np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-4)


def test_precision_is_stated_so_that_accelerators_do_not_round():
    program = jax.jit(lambda x: pqmf.synthesize(pqmf.analyze(x, 4))).lower(jnp.zeros((1, 64))).as_text()
    assert program.count("stablehlo.dot_general") == 2
    assert program.count("precision = [HIGHEST, HIGHEST]") == 2


@pytest.mark.parametrize("subbands", [0, 3, 16])
def test_unknown_number_of_subbands_is_refused(subbands):
    with pytest.raises(InputError, match=f"{subbands} subbands; choose 1, 2, 4 or 8"):
        pqmf.analyze(np.zeros((1, 64), np.float32), subbands)
