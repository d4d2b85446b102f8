"""The Demucs family against the package demucs: small networks of every kind, the published ones at full size."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest
import tiny
import torch
from demucs.apply import apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from distance import relative_error
from flax.traverse_util import flatten_dict
from golden_weights import wave

from jaxmss import models
from jaxmss.checkpoints.demucs_names import from_demucs_state
from jaxmss.demucs_config import STEMS, DemucsConfig, HybridDemucsConfig, ResidualBranch, Transformer
from jaxmss.errors import InputError
from jaxmss.options import Options
from jaxmss.separator import Separator, separate

# of levels along frequency a small window has few: the LSTMs and the attention come early
BRANCHES = ResidualBranch(lstm_from=2, attention_from=2, scale=1e-3)
PLAIN = ResidualBranch("both", lstm_from=9, attention_from=9)  # LSTMs take long to compile
PLAIN_ARGUMENTS = {"dconv_mode": 3, "dconv_lstm": 9, "dconv_attn": 9}
SMALL = HybridDemucsConfig(width=8, depth=4, n_fft=256, residual=BRANCHES)
SMALL_ARGUMENTS = {"channels": 8, "depth": 4, "nfft": 256, "dconv_lstm": 2, "dconv_attn": 2}
SMALL_HT = HybridDemucsConfig(
    width=8,
    depth=2,
    n_fft=256,
    segment=0.3,
    residual=ResidualBranch("both", compression=4, scale=1e-3),
    transformer=Transformer(layers=3, heads=2, width=12, dropout=0.0),
)
SMALL_HT_ARGUMENTS = {
    **{"channels": 8, "depth": 2, "nfft": 256, "segment": Fraction(3, 10), "dconv_mode": 3, "dconv_comp": 4},
    **{"bottom_channels": 12, "t_heads": 2, "t_layers": 3},
}

# the package's class and its arguments, our config, samples
SMALL_CASES = {
    "time": (Demucs, {"channels": 8}, DemucsConfig(width=8), 30_001),
    "time, as it is": (
        Demucs,
        {"channels": 4, "normalize": False, "resample": False, "dconv_mode": 3, "norm_starts": 1, "depth": 3},
        DemucsConfig(width=4, depth=3, normalize=False, resample=False, norm_from=1, residual=ResidualBranch("both")),
        17_777,
    ),
    "hybrid, with pieces for the LSTMs": (HDemucs, SMALL_ARGUMENTS, SMALL, 44_101),
    "hybrid, three samples": (HDemucs, SMALL_ARGUMENTS, SMALL, 3),
    "magnitudes, old padding": (
        HDemucs,
        {**SMALL_ARGUMENTS, "cac": False, "hybrid_old": True, "norm_starts": 1, "freq_emb": 0, **PLAIN_ARGUMENTS},
        replace(SMALL, output="magnitude", old_padding=True, residual=PLAIN, norm_from=1, embedding=0.0),
        10_011,
    ),
    "bands": (
        HDemucs,
        {**SMALL_ARGUMENTS, "multi_freqs": [0.3, 0.55], "multi_freqs_depth": 2, **PLAIN_ARGUMENTS},
        replace(SMALL, band_edges=(0.3, 0.55), band_levels=2, residual=PLAIN),
        10_240,
    ),
    "transformer": (HTDemucs, SMALL_HT_ARGUMENTS, SMALL_HT, 13_230),
    "transformer, shorter than its segment": (HTDemucs, SMALL_HT_ARGUMENTS, SMALL_HT, 2_345),
}

# the networks of the published bags, on as much audio as tells; what the files' own arguments add is tested above
FULL = {
    "mdx: time": (Demucs, {"rewrite": False}, replace(models.architecture("demucs"), rewrite=False), 50_001),
    "mdx: magnitudes": (
        HDemucs,
        {"cac": False, "hybrid_old": True, "freq_emb": 0},
        replace(models.architecture("hdemucs"), output="magnitude", old_padding=True, embedding=0.0),
        50_001,
    ),
    "mdx: bands": (
        HDemucs,
        {"multi_freqs": [0.25, 0.5], "multi_freqs_depth": 2, "freq_emb": 0, "hybrid_old": True},
        replace(models.architecture("hdemucs"), band_edges=(0.25, 0.5), band_levels=2, embedding=0.0, old_padding=True),
        50_001,
    ),
    "mdx_extra": (HDemucs, {}, models.architecture("hdemucs"), 100_001),
    "htdemucs": (
        HTDemucs,
        {"bottom_channels": 512, "dconv_mode": 3, "segment": 7.8},
        models.architecture("htdemucs"),
        343_980,
    ),
    "htdemucs_6s": (
        HTDemucs,
        {"sources": [*STEMS, "guitar", "piano"], "dconv_mode": 3, "segment": 2.0},
        replace(
            models.architecture("htdemucs"),
            sources=(*STEMS, "guitar", "piano"),
            transformer=Transformer(width=0),
            segment=2.0,
        ),
        80_001,
    ),
}


def pair(kind: type, arguments: dict, config):
    """Return a network of the package with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = kind(**{"sources": list(STEMS), **arguments}).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("scale"):  # at 1e-4 no branch could be told from none
                parameter.uniform_(0.3, 0.7)
    return theirs, variables_of({name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, config)


def variables_of(state: dict[str, np.ndarray], config):
    return from_demucs_state(state, models.variable_shapes(config), config, "the package")


# what no published network has; with lengths, all are held to the package below
@pytest.mark.parametrize(
    "case", ["time, as it is", "hybrid, three samples", "transformer", "transformer, shorter than its segment"]
)
def test_small_networks_equal_the_package(case):
    check_output(*SMALL_CASES[case], batch=2)


@pytest.mark.parametrize(("kind", "arguments", "config", "samples"), FULL.values(), ids=FULL)
def test_published_networks_equal_the_package(kind, arguments, config, samples):
    # the optimised program, which users run, once for each class
    optimise = config in (FULL[case][2] for case in ("mdx: time", "mdx_extra", "htdemucs"))
    check_output(kind, arguments, config, samples, batch=1, jit=optimised.jit if optimise else jax.jit)


def check_output(kind, arguments, config, samples, batch, jit=jax.jit):
    theirs, variables = pair(kind, arguments, config)
    mixture = wave(1, (batch, 2, samples))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(mixture)).numpy()
    estimate = jit(models.build(config).apply)(variables, mixture)
    assert estimate.shape == expected.shape == (batch, len(config.sources), 2, samples)
    assert relative_error(estimate, expected) <= 2e-5


@pytest.mark.parametrize(("kind", "arguments", "config", "samples"), SMALL_CASES.values(), ids=SMALL_CASES)
def test_an_example_that_ends_earlier_is_as_if_it_were_alone(kind, arguments, config, samples):
    theirs, variables = pair(kind, arguments, config)
    lengths = np.array([samples, samples * 3 // 5, min(samples, 700), 2])
    mixture = wave(1, (4, 2, samples + 6_000))  # whatever follows the end
    stems = jax.jit(models.build(config).apply)(variables, mixture, lengths)
    for mix, length, estimate in zip(mixture, lengths, np.asarray(stems), strict=True):
        with torch.inference_mode():
            expected = theirs(torch.from_numpy(mix[None, :, :length])).numpy()
        assert relative_error(estimate[..., :length], expected[0]) <= 2e-5
        assert not estimate[..., length:].any()


@pytest.mark.parametrize(
    ("kind", "arguments", "config"),
    [
        (
            Demucs,
            {"channels": 4, "depth": 4, "dconv_lstm": 2, "dconv_attn": 2, "segment": Fraction(3, 10)},
            DemucsConfig(width=4, depth=4, segment=0.3, residual=replace(BRANCHES, scale=1e-4)),
        ),
        (HDemucs, {**SMALL_ARGUMENTS, "segment": Fraction(3, 10)}, replace(SMALL, segment=0.3)),
        (HTDemucs, SMALL_HT_ARGUMENTS, SMALL_HT),
    ],
    ids=["time", "hybrid", "transformer"],
)
def test_tracks_equal_the_package_to_their_ends(kind, arguments, config):
    theirs, variables = pair(kind, arguments, config)
    model = Separator(config, variables)
    for samples in (2_345, 30_000):
        track = wave(5, (2, samples)) + np.float32(0.05)
        mean, deviation = track.mean(0).mean(), track.mean(0).std(ddof=1) + 1e-8  # as its command line has it
        normal = torch.from_numpy((track - mean) / deviation)[None]
        expected = apply_model(theirs, normal, shifts=0, split=True, overlap=0.25)[0].numpy() * deviation + mean
        assert relative_error(separate(model, track), expected) <= 2e-5


def test_a_transformer_hears_no_more_at_once_than_in_training():
    model = Separator(SMALL_HT, tiny.drawn(SMALL_HT))
    track = wave(5, (2, 30_000))
    assert np.isfinite(separate(model, track, options=Options(segment=0.2, context=0.05))).all()
    for options in (Options(segment=0.4), Options(context=0.01)):
        with pytest.raises(InputError, match=r"'segment' \(=0\.[34]\) cannot be used: .* at most 0\.3 s"):
            separate(model, track, options=options)


def test_gradients_of_a_published_network_equal_the_package():
    # float64 is the truth: the package's own float32 gradients are as far from it as ours
    kind, arguments, config, _ = FULL["htdemucs"]
    # two layers, one of each kind, compile sooner than five
    config = replace(config, transformer=replace(config.transformer, dropout=0.0, layers=2))
    theirs, variables = pair(kind, {**arguments, "t_dropout": 0.0, "t_layers": 2}, config)
    theirs = theirs.double().train()
    mixture, target = wave(1, (1, 2, 9_001)), wave(2, (1, 4, 2, 9_001))
    audio = torch.from_numpy(mixture).double().requires_grad_()
    # the package makes its positions in float32, and PyTorch mixes no types
    torch.set_default_dtype(torch.float64)
    try:
        (theirs(audio) - torch.from_numpy(target).double()).square().mean().backward()
    finally:
        torch.set_default_dtype(torch.float32)

    network = models.build(config, remat=True)

    def loss(variables, mixture):
        return jnp.mean((network.apply(variables, mixture, train=True) - target) ** 2)

    gradients, to_mixture = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, mixture)
    expected = variables_of({name: p.grad.float().numpy() for name, p in theirs.named_parameters()}, config)
    assert relative_error(to_mixture, audio.grad.numpy()) <= 2e-5
    ours, expected = flatten_dict(gradients), flatten_dict(expected)
    whole = np.sqrt(sum(np.square(gradient).sum() for gradient in expected.values()))
    for path, gradient in expected.items():
        # before a norm or a softmax a bias has no effect, and its gradient is rounding alone
        assert np.linalg.norm(ours[path] - gradient) <= 2e-5 * max(np.linalg.norm(gradient), 1e-4 * whole), path


@pytest.mark.parametrize(
    "config",
    [DemucsConfig(width=4, depth=3), SMALL_HT, replace(SMALL, output="magnitude", residual=PLAIN)],
    ids=["time", "transformer", "magnitudes"],
)
def test_silence_gives_finite_stems_and_gradients(config):
    network = models.build(config)
    silence = jnp.zeros((1, 2, 5_000))
    variables = tiny.drawn(config)

    def loudness(mixture):
        stems = network.apply(variables, mixture)
        return jnp.abs(stems).sum(), stems

    gradient, stems = jax.jit(jax.grad(loudness, has_aux=True))(silence)
    assert np.isfinite(stems).all()
    assert np.isfinite(gradient).all()


def test_chosen_stems_are_those_of_all():
    theirs, variables = pair(HTDemucs, SMALL_HT_ARGUMENTS, SMALL_HT)
    mixture = wave(3, (1, 2, 13_230))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(mixture)).numpy()[:, [3, 0]]
    network = models.build(SMALL_HT)
    estimate = jax.jit(lambda *inputs: network.apply(*inputs, sources=("vocals", "drums")))(variables, mixture)
    assert relative_error(estimate, expected) <= 2e-5


@pytest.mark.parametrize(
    ("kind", "arguments", "config"),
    [
        (
            HTDemucs,
            {**SMALL_HT_ARGUMENTS, "channels": 32, "bottom_channels": 64},
            replace(SMALL_HT, width=32, transformer=Transformer(layers=3, heads=2, width=64)),
        ),
        (HDemucs, {**SMALL_ARGUMENTS, "channels": 32, "depth": 3}, replace(SMALL, width=32, depth=3)),
        (Demucs, {"channels": 16, "depth": 4}, DemucsConfig(width=16, depth=4)),
    ],
    ids=["transformer", "hybrid", "time"],
)
def test_parameters_are_drawn_as_widely_as_the_packages(kind, arguments, config):
    torch.manual_seed(1)
    theirs = kind(sources=list(STEMS), **arguments)
    expected = flatten_dict(variables_of({name: t.numpy() for name, t in theirs.state_dict().items()}, config))
    key = jax.random.key(0, impl="rbg")  # it compiles sooner than JAX's default, and draws from the same distributions
    ours = flatten_dict(jax.jit(models.build(config).init)(key, jnp.zeros((1, 2, 4_000))))
    large = {path: leaf for path, leaf in expected.items() if leaf.size >= 128 and leaf.std() > 1e-3}
    assert len(large) > 30
    for path, leaf in large.items():
        np.testing.assert_allclose(np.std(ours[path]), leaf.std(), rtol=0.25, err_msg=str(path))
