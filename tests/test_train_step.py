"""One step of training on one device: what it learns, averages, skips and keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import pytest
from training_runs import batch, config, flat, smooth

from jaxmss import models
from jaxmss.data.mixing import Batch, mix
from jaxmss.training import sharding
from jaxmss.training import step as train_step_module
from jaxmss.training.config import Config, Loss, Optim
from jaxmss.training.losses import loss
from jaxmss.training.state import TrainState, initial_state

# the learning rate decays with each step
NARROW = {"width": 8, "optim": Optim(warmup=0.0, decay_every=1e-6, ema=0.5)}
MESH = sharding.make_mesh(config(), jax.devices()[:1])


@functools.cache
def compiled(settings: Config) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    return sharding.compile_step(settings, MESH)


@functools.cache
def start() -> TrainState:
    return jax.tree.map(np.asarray, smooth(sharding.init(config(**NARROW), MESH)))


def placed(state: TrainState) -> TrainState:
    return jax.device_put(state, sharding.state_shardings(state, MESH))


def run(settings: Config, batches: list[Batch]) -> tuple[list[TrainState], list[dict[str, float]]]:
    """The states before and after each batch, on the host, and the metrics."""
    states, metrics = [start()], []
    state = placed(start())
    for examples in batches:
        state, measured = compiled(settings)(state, sharding.place_batch(examples, MESH))
        states.append(jax.tree.map(np.array, state))
        metrics.append({name: float(value) for name, value in measured.items()})
    return states, metrics


@functools.partial(jax.jit, static_argnames="settings")
def objective_and_gradient(settings: Config, state: TrainState, examples: Batch):
    def objective(params):
        mixture, targets = mix(examples, settings.data.parts, settings.model.sources)
        variables = {"params": params, "batch_stats": state.batch_stats}
        estimates, updated = models.build(settings.model).apply(variables, mixture, train=True, mutable="batch_stats")
        return loss(estimates, targets, settings.loss, state.step), updated["batch_stats"]

    return jax.value_and_grad(objective, has_aux=True)(state.params)


def norm(gradient) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(gradient))))


def assert_close(actual, expected, tolerance: float = 1e-5) -> None:
    """Compare two trees, to `tolerance` of the greatest value of all."""
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    greatest = max(np.abs(array).max() for array in expected.values())
    for key, array in expected.items():
        np.testing.assert_allclose(actual[key], array, rtol=tolerance, atol=tolerance * greatest, err_msg=key)


def assert_equal(actual, expected) -> None:
    """Compare two trees bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_the_first_step_goes_against_the_gradients_sign_by_the_learning_rate():
    settings = config(**NARROW)
    (before, after), (metrics,) = run(settings, [batch(0)])
    (value, batch_stats), gradient = objective_and_gradient(settings, before, batch(0))
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-6)
    assert metrics["gradient_norm"] == pytest.approx(norm(gradient), rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(1e-3)
    assert_close(after.batch_stats, batch_stats)
    greatest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    for old, new, g in zip(*(jax.tree.leaves(x) for x in (before.params, after.params, gradient)), strict=True):
        clear = np.abs(g) > 1e-3 * greatest  # beyond rounding errors, and beyond Adam's epsilon
        np.testing.assert_allclose((new - old)[clear], -1e-3 * np.sign(g)[clear], rtol=1e-3)


def test_the_learning_rate_follows_the_schedule():
    _, metrics = run(config(**NARROW), [batch(step) for step in range(3)])
    assert [m["learning_rate"] for m in metrics] == pytest.approx([1e-3, 0.9e-3, 0.81e-3])


def test_repeating_a_batch_lowers_its_loss():
    _, metrics = run(config(**NARROW), [batch(0)] * 12)
    assert metrics[-1]["loss"] < 0.97 * metrics[0]["loss"]


def test_accumulation_averages_losses_and_gradients_and_moves_statistics_part_by_part():
    # energy is conserved from the second step on: not from the second part of the first
    conserving = Loss(waveform=0.85, spectrogram=0.15, n_fft=64, hop=16, conserve_after=1)
    settings = replace(config(accumulate=2, **NARROW), loss=conserving)
    states, metrics = run(settings, [batch(0), batch(1)])
    for step, (before, after, measured) in enumerate(zip(states[:-1], states[1:], metrics, strict=True)):
        parts = [jax.tree.map(lambda x, first=first, step=step: x[first::2], batch(step)) for first in range(2)]
        (value0, stats), gradient0 = objective_and_gradient(settings, before, parts[0])
        (value1, stats), gradient1 = objective_and_gradient(settings, before._replace(batch_stats=stats), parts[1])
        gradient = jax.tree.map(lambda a, b: (a + b) / 2, gradient0, gradient1)
        assert measured["loss"] == pytest.approx(float(value0 + value1) / 2, rel=1e-6)
        assert measured["gradient_norm"] == pytest.approx(norm(gradient), rel=1e-5)
        assert_close(after.batch_stats, stats)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing_but_the_counts(spoilt):
    bad = batch(1)
    bad.gain[3, 0] = spoilt
    states, metrics = run(config(**NARROW), [batch(0), bad, bad, batch(2)])
    for skipped in (1, 2):
        kept = states[1]._replace(step=states[0].step + 1 + skipped, skipped=skipped, skipped_total=skipped)
        assert_equal(states[1 + skipped], kept)
    assert [m["skipped"] for m in metrics] == [0, 1, 2, 0]
    assert [m["skipped_total"] for m in metrics] == [0, 1, 2, 2]
    assert int(states[-1].step) == 4

    expected, _ = run(config(**NARROW), [batch(0), batch(2)])  # as if the bad ones had never been, but for the rate
    assert_equal(states[-1].opt_state, expected[-1].opt_state)
    assert_equal(states[-1].batch_stats, expected[-1].batch_stats)
    assert [m["learning_rate"] for m in metrics] == pytest.approx([1e-3, 0.9e-3, 0.81e-3, 0.729e-3])
    assert_close(states[-1].ema, averaged(states[1].ema, states[-1], update=1), 1e-6)


def test_a_gradient_that_overflows_changes_nothing_though_the_loss_is_finite():
    states, (metrics,) = run(replace(config(**NARROW), loss=Loss(waveform=1e30)), [batch(0)])
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    assert_equal(states[1].params, states[0].params)


def averaged(mean, state: TrainState, update: int):
    """The moving average `mean` after one more update, the first of which is number 0."""
    decay = min(0.5, (1 + update) / (10 + update))
    new = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, mean, new)


def test_the_moving_average_holds_parameters_and_statistics():
    states, _ = run(config(**NARROW), [batch(step) for step in range(12)])
    mean = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for update, state in enumerate(states[1:]):
        mean = averaged(mean, state, update)
        assert_close(state.ema, mean, 1e-6)
    assert norm(mean["params"]) != norm(states[-1].params)


def test_there_is_no_moving_average_without_decay():
    assert jax.eval_shape(lambda: initial_state(config(optim=Optim(ema=0.0)))).ema is None


def test_bfloat16_is_inside_the_network_alone():
    for number in range(3):  # in one of which a bin's phase maps in bfloat16 would both be 0
        (before, after), (metrics,) = run(config(dtype="bfloat16", **NARROW), [batch(number)])
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(np.float32), np.dtype(np.int32)}
        (value, _), gradient = objective_and_gradient(config(**NARROW), before, batch(number))
        assert metrics["loss"] == pytest.approx(float(value), rel=1e-3)
        assert metrics["loss"] != pytest.approx(float(value), rel=1e-6)
        assert metrics["gradient_norm"] == pytest.approx(norm(gradient), rel=0.03)


def test_the_loss_is_computed_in_float32(monkeypatch):
    seen = []

    def noted(estimates, *arguments):
        seen.append(estimates.dtype)
        return loss(estimates, *arguments)

    monkeypatch.setattr(train_step_module, "loss", noted)
    jax.eval_shape(train_step_module.train_step(config(dtype="bfloat16", **NARROW)), start(), batch(0))
    assert set(seen) == {np.dtype(np.float32)}


def test_rematerialisation_computes_convolutions_again_and_changes_no_result():
    inputs = placed(start()), sharding.place_batch(batch(0), MESH)
    plain, again = (
        compiled(config(remat=remat, **NARROW)).lower(*inputs).as_text().count("stablehlo.convolution")
        for remat in (False, True)
    )
    assert again > plain
    _, expected = compiled(config(**NARROW))(*inputs)
    _, metrics = compiled(config(remat=True, **NARROW))(placed(start()), inputs[1])
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], expected["gradient_norm"], rtol=1e-5)


def test_parameters_are_drawn_from_the_seed():
    first, again, other = (flat(initial_state(replace(config(**NARROW), seed=seed)).params) for seed in (0, 0, 1))
    kernels = [name for name in first if "kernel" in name]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in kernels)


def test_one_run_compiles_one_program():
    settings = config(**NARROW)
    run(settings, [batch(step) for step in range(3)])
    assert compiled(settings)._cache_size() == 1


def test_a_step_takes_its_state_over():
    given = placed(start())
    compiled(config(**NARROW))(given, sharding.place_batch(batch(0), MESH))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
