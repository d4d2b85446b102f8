from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from golden_weights import GOLDEN

from jaxmss import models
from jaxmss.training.config import Config, Data, Optim
from jaxmss.training.optimizer import AMSGradState, amsgrad, learning_rate, optimizer

STEPS = 200
CONFIG = Config(model=models.architecture("cws-small"))


def hours(steps: int, data: Data) -> float:
    """The audio that so many steps see."""
    return steps * data.batch * data.seconds / 3600


def random_gradients() -> np.ndarray:
    """Gradients of 1,000 parameters from 1e-12 to 10, that shrink and grow again, so that second moments fall."""
    random = np.random.RandomState(0)
    scale = 10 ** random.uniform(-12, 1, 1000)
    envelope = 10 ** (1.5 * np.cos(np.arange(STEPS) / 15 + random.uniform(0, 2 * np.pi, 1000)[:, None]))
    return (random.standard_normal((STEPS, 1000)) * scale * envelope.T).astype(np.float32)


def trajectory(transformation: optax.GradientTransformation, gradients: np.ndarray, rate: float) -> np.ndarray:
    """Parameters after each update from zero."""

    def step(carry, gradient):
        params, state = carry
        direction, state = transformation.update(gradient, state, params)
        params -= rate * direction
        return (params, state), params

    start = jnp.zeros(gradients.shape[1])
    return np.asarray(jax.lax.scan(step, (start, transformation.init(start)), gradients)[1])


def torch_trajectory(
    gradients: np.ndarray, rate: float, clip: float | None = None, dtype=torch.float64, amsgrad: bool = True
) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.zeros(gradients.shape[1], dtype=dtype))
    adam = torch.optim.Adam([parameter], lr=rate, amsgrad=amsgrad)
    passed = []
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).to(dtype)
        if clip:
            torch.nn.utils.clip_grad_norm_([parameter], clip)
        adam.step()
        passed.append(parameter.detach().numpy().copy())
    return np.stack(passed)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest difference of any parameter at any step, relative to the way that the parameter has gone."""
    way = np.abs(np.diff(theirs, axis=0, prepend=np.zeros_like(theirs[:1]))).cumsum(0)
    return float(np.max(np.abs(ours - theirs) / way))


def test_parameters_follow_those_of_pytorch():
    gradients = random_gradients()
    exact = torch_trajectory(gradients, 1e-3)
    assert error(trajectory(amsgrad(), gradients, 1e-3), exact) <= 1e-6  # PyTorch's own in float32: 6e-7


def test_plain_adam_follows_that_of_pytorch():
    gradients = random_gradients()
    plain = replace(CONFIG, optim=Optim(amsgrad=False))
    exact = torch_trajectory(gradients, 1e-3, amsgrad=False)
    single = torch_trajectory(gradients, 1e-3, amsgrad=False, dtype=torch.float32)
    ours = error(trajectory(optimizer(plain), gradients, 1e-3), exact)
    assert ours <= max(1e-5, 2 * error(single, exact))


@pytest.mark.parametrize(
    "other",
    [optax.scale_by_adam(), optax.scale_by_amsgrad(), optax.scale_by_amsgrad(bias_correction_nu=False)],
    ids=["without the maximum", "maximum of the corrected moment", "without the correction"],
)
def test_no_other_adam_follows_pytorch(other):
    gradients = random_gradients()
    assert error(trajectory(other, gradients, 1e-3), torch_trajectory(gradients, 1e-3)) > 1e-3


def test_moments_equal_those_of_pytorch():
    gradients = random_gradients()
    parameter = torch.nn.Parameter(torch.zeros(1000))
    adam = torch.optim.Adam([parameter], amsgrad=True)
    state = amsgrad().init(jnp.zeros(1000))
    for gradient in gradients[:20]:
        parameter.grad = torch.from_numpy(gradient)
        adam.step()
        _, state = amsgrad().update(gradient, state)
    theirs = adam.state[parameter]
    assert int(state.updates) == int(theirs["step"]) == 20
    for ours, name in zip(state[1:], ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), strict=True):
        expected = theirs[name].numpy()
        largest = np.abs(gradients[:20]).max(0) ** (1 if name == "exp_avg" else 2)
        assert np.all(np.abs(ours - expected) <= 1e-6 * largest), name


def test_gradients_are_clipped_by_their_global_norm():
    gradients = random_gradients()
    config = replace(CONFIG, optim=Optim(clip=0.5))
    ours = trajectory(optimizer(config), gradients, 1e-3)
    theirs = torch_trajectory(gradients, 1e-3, clip=0.5)
    assert error(ours, theirs) <= 1e-5  # PyTorch divides by the norm plus 1e-6


def test_gradients_are_left_alone_without_clipping():
    gradients = random_gradients()
    np.testing.assert_array_equal(
        trajectory(optimizer(CONFIG), gradients, 1e-3), trajectory(amsgrad(), gradients, 1e-3)
    )


def test_direction_is_finite_where_no_gradient_ever_was():
    state = amsgrad().init(jnp.zeros(3))
    direction, state = amsgrad().update(jnp.zeros(3), state)
    np.testing.assert_array_equal(direction, 0)
    assert isinstance(state, AMSGradState)


def test_learning_rate_reproduces_the_published_one():
    data = Data(batch=2, seconds=0.5)
    optim = Optim(warmup=hours(4, data), decay_every=hours(5, data))
    rate = jax.jit(learning_rate(replace(CONFIG, data=data, optim=optim)))
    with np.load(GOLDEN / "train-cws-small.npz") as golden:
        np.testing.assert_allclose([rate(step) for step in range(12)], golden["lrs"], rtol=1e-6)


@pytest.mark.parametrize("batch", [16, 64, 128])
def test_schedule_follows_hours_of_audio_whatever_the_batch(batch):
    config = replace(CONFIG, data=Data(batch=batch))
    rate = jax.jit(learning_rate(config))
    half = float(rate(config.steps(13.3)))
    assert half == pytest.approx(5e-4, abs=1e-3 / config.steps(26.6))  # hours are rounded to steps
    at = {h: float(rate(config.steps(h))) for h in (26.6, 399.0, 401.0, 799.0, 801.0, 2001.0)}
    expected = {26.6: 1e-3, 399.0: 1e-3, 401.0: 9e-4, 799.0: 9e-4, 801.0: 8.1e-4, 2001.0: 1e-3 * 0.9**5}
    assert at == pytest.approx(expected, rel=1e-6)


def test_without_warmup_the_first_step_has_the_whole_learning_rate():
    rate = learning_rate(replace(CONFIG, optim=Optim(warmup=0.0)))
    assert float(rate(0)) == pytest.approx(1e-3)
