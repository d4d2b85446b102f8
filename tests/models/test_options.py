"""What the networks can do beyond the published ones: ragged batches, chosen heads, bfloat16, odd input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest
from golden_weights import wave

from jaxmss import models
from jaxmss.errors import InputError

WIDTHS = (4, 6, 8)  # of few levels, which compile sooner


def small(arch: str, **fields):
    """Return the config of a small network of an architecture, and random variables."""
    config = replace(models.architecture(arch), **{"widths": WIDTHS, "blocks": 1, "head_blocks": 1, **fields})
    rng = np.random.default_rng(0)

    def random(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[-4:-1])))
        return 0.1 * noise + (path[-1].key in ("scale", "var"))

    return config, jax.tree_util.tree_map_with_path(random, models.variable_shapes(config))


def compiled(config, dtype=jnp.float32):
    return jax.jit(models.build(config, dtype).apply, static_argnames=("sources", "train", "mutable"))


@pytest.mark.parametrize("arch", ["cws-small", "resunet143-subband", "resunet143-ismir2021", "mobilenet-subband"])
def test_examples_of_a_ragged_batch_are_separated_as_if_alone(arch):
    config, variables = small(arch)
    network = compiled(config)
    lengths = [40_001, 12_345, 999]
    alone = [wave(length, (1, 2, length)) for length in lengths]
    batch = np.full((3, 2, 40_001), np.nan, np.float32)  # what follows an example must not matter
    for row, audio in zip(batch, alone, strict=True):
        row[:, : audio.shape[-1]] = audio[0]
    together = network(variables, batch, jnp.array(lengths))
    for row, audio, length in zip(together, alone, lengths, strict=True):
        expected = network(variables, audio)[0]
        assert np.linalg.norm(row[..., :length] - expected) <= 1e-5 * np.linalg.norm(expected)
        assert not np.any(row[..., length:])


def test_only_the_wanted_heads_are_computed():
    config, variables = small("cws-joint")
    network = optimised.jit(models.build(config).apply, static_argnames="sources")
    audio = wave(1, (1, 2, 9_000))
    every = network(variables, audio)
    some = network(variables, audio, sources=("other", "bass"))
    np.testing.assert_allclose(some, every[:, jnp.array([2, 0])], atol=1e-6)

    def cost(sources):
        return network.lower(variables, audio, sources=sources).compile().cost_analysis()["flops"]

    assert cost(("other",)) < cost(("bass", "other")) < cost(config.sources)


def test_a_head_for_all_sources_gives_the_wanted_ones():
    config, variables = small("resunet143-subband", sources=("vocals", "accompaniment"))
    audio = wave(1, (1, 2, 9_000))
    network = compiled(config)
    every = network(variables, audio)
    some = network(variables, audio, sources=("accompaniment",))
    np.testing.assert_allclose(some, every[:, 1:], atol=1e-6)


def test_bfloat16_stays_inside_the_network():
    config, variables = small("cws-small")
    audio = wave(1, (1, 2, 20_000))
    exact = compiled(config)(variables, audio)
    coarse = compiled(config, jnp.bfloat16)(variables, audio)
    assert coarse.dtype == jnp.float32
    error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05  # rounded inside, and no more than that


@pytest.mark.parametrize("arch", ["cws-small", "resunet143-subband", "resunet143-ismir2021"])
@pytest.mark.parametrize("samples", [1, 5])
def test_tiny_and_silent_inputs_give_finite_output_of_their_length(arch, samples):
    config, variables = small(arch)
    for audio in (np.zeros((1, 2, samples), np.float32), wave(1, (1, 2, samples))):
        estimate = compiled(config)(variables, audio)
        assert estimate.shape == (1, 1, 2, samples)
        assert np.isfinite(estimate).all()


@pytest.mark.parametrize("arch", ["cws-small", "resunet143-ismir2021", "mobilenet-subband"])
def test_gradients_are_finite_at_silence(arch):
    config, variables = small(arch)
    network = models.build(config)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradients_of(params, audio):
        inputs = {"params": params, "batch_stats": variables["batch_stats"]}
        return jnp.abs(network.apply(inputs, audio, train=True, mutable=["batch_stats"])[0]).mean()

    gradients = gradients_of(variables["params"], jnp.zeros((1, 2, 3000)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_depth_does_not_lengthen_the_program():
    def lines(blocks):
        config = replace(models.architecture("cws-vocals"), blocks=blocks)
        program = jax.jit(models.build(config).apply).lower(
            models.variable_shapes(config), jax.ShapeDtypeStruct((1, 2, 44100), jnp.float32)
        )
        return program.as_text().count("\n")

    assert lines(8) == lines(4)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"subbands": 3}, "subbands' (=3)"),
        ({"n_fft": 500}, "multiple of 64"),
        ({"sources": ()}, "at least one stem"),
        ({"sources": ("a", "a")}, "each stem once"),
        ({"hop": 0}, "hop' (=0)"),
        ({"segment": 0.0}, "segment' (=0.0)"),
        ({"segment": 1e9}, "at most 600 s"),
        ({"sample_rate": 10**11}, "sample_rate' (=100000000000)"),
        ({"sources": ("../evil",)}, "name must be that of a file"),
        ({"sources": ("",)}, "name must be that of a file"),
        ({"sources": ("..",)}, "name must be that of a file"),
        ({"sources": ("a\\b",)}, "name must be that of a file"),
    ],
)
def test_impossible_configs_are_refused_with_the_value(fields, told):
    with pytest.raises(InputError) as error:
        replace(models.architecture("cws-small"), **fields)
    assert told in str(error.value)


def test_an_unknown_architecture_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'cws-vocals'"):
        models.architecture("cws-vocal")
