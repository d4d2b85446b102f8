from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from golden_weights import GOLDEN, wave
from torch_twins import training

from jaxmss.training.config import Loss
from jaxmss.training.losses import loss

compute = jax.jit(loss, static_argnums=2)
compute_gradient = jax.jit(jax.value_and_grad(loss), static_argnums=2)

JOINT = Loss(waveform=0.85, spectrogram=0.15, conserve_after=10_000)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Loss(), "l1"),
        (Loss(waveform=0.0, spectrogram=2048**0.5), "sp"),
        (Loss(waveform=0.85, spectrogram=0.15), "l1_wav_sp_085"),
    ],
)
def test_loss_reproduces_the_published_ones(config, expected):
    estimate, target = (wave(seed, (2, 2, 22050))[:, None] for seed in (11, 12))
    with np.load(GOLDEN / "losses.npz") as golden:
        np.testing.assert_allclose(compute(estimate, target, config, 0), golden[expected], rtol=1e-6)


@pytest.mark.parametrize("step", [0, 9_999, 10_000, 10_001])
def test_loss_and_gradient_equal_the_twin_before_and_after_energy_is_conserved(step):
    estimates, targets = (wave(seed, (2, 3, 2, 6000)) for seed in (1, 2))
    ours = compute_gradient(estimates, targets, JOINT, step)
    x = torch.from_numpy(estimates).double().requires_grad_()
    theirs = training.loss(x, torch.from_numpy(targets).double(), 0.85, 0.15, conserve=step >= 10_000)
    theirs.backward()
    np.testing.assert_allclose(ours[0], theirs.item(), rtol=1e-6)
    assert np.linalg.norm(ours[1] - x.grad.numpy()) <= 1e-5 * np.linalg.norm(x.grad.numpy())


def test_one_program_serves_all_steps():
    estimates, targets = (wave(seed, (1, 2, 1, 3000)) for seed in (1, 2))
    config = replace(JOINT, conserve_after=5)
    compiled = jax.jit(lambda step: loss(estimates, targets, config, step))
    values = [float(compiled(step)) for step in range(8)]
    assert compiled._cache_size() == 1
    assert len(set(values[:5])) == len(set(values[5:])) == 1
    assert values[5] > values[4]


@pytest.mark.parametrize("silent", ["estimates", "targets", "both"])
def test_gradients_are_finite_at_silence(silent):
    sound, silence = wave(1, (1, 2, 1, 4000)), jnp.zeros((1, 2, 1, 4000))
    estimates = sound if silent == "targets" else silence
    targets = sound if silent == "estimates" else silence
    value, gradient = compute_gradient(estimates, targets, JOINT, 10_000)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0) == (silent != "both")


def test_a_source_more_adds_its_own_distance():
    estimates, targets = (wave(seed, (2, 3, 2, 4000)) for seed in (3, 4))
    config = replace(JOINT, conserve_after=None)
    alone = [compute(estimates[:, [j]], targets[:, [j]], config, 0) for j in range(3)]
    np.testing.assert_allclose(compute(estimates, targets, config, 0), sum(alone), rtol=1e-6)
