"""From a file of the package demucs to a checkpoint of ours that computes what the package does."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.states import load_model
from demucs_files import contents

from jaxmss import loading, models
from jaxmss.checkpoints.convert import convert
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.checkpoints.store import restore
from jaxmss.errors import CheckpointError, DownloadError

NETWORKS = {
    "demucs": functools.partial(Demucs, ["a", "b"], channels=8, depth=2, norm_starts=1, dconv_lstm=1, dconv_attn=1),
    # the networks in time of the published system mdx
    "demucs without rewrite": functools.partial(
        Demucs, ["a", "b"], channels=8, depth=2, norm_starts=1, dconv_lstm=9, dconv_attn=9, rewrite=False
    ),
    "hdemucs": functools.partial(
        HDemucs,
        ["a", "b"],
        channels=8,
        depth=3,
        nfft=256,
        cac=False,
        norm_starts=1,
        dconv_mode=3,
        dconv_lstm=2,
        dconv_attn=2,
        multi_freqs=[0.25, 0.5],
        multi_freqs_depth=1,
    ),
    "htdemucs": functools.partial(
        HTDemucs,
        ["drums", "bass", "other", "vocals"],
        channels=8,
        depth=2,
        nfft=512,
        bottom_channels=16,
        t_layers=2,
        t_heads=2,
        segment=Fraction(1, 20),
    ),
}


def network(name: str) -> torch.nn.Module:
    """Build a tiny network of the package with weights that leave nothing without effect."""
    torch.manual_seed(0)
    built = NETWORKS[name]()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:  # norms and branches begin as what does nothing
                parameter += 0.3 * torch.randn(parameter.shape)
    return built


def published(name: str, path: Path, half: bool = True) -> Path:
    torch.save(contents(network(name), half), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_computes_what_the_package_does(tmp_path, name):
    file = published(name, tmp_path / "file.th")
    convert(name.split()[0], file, tmp_path / "ours")
    config, variables = restore(tmp_path / "ours")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))
    mixture = np.random.default_rng(0).standard_normal((1, 2, 2001), np.float32)
    with torch.no_grad():
        expected = load_model(file).eval()(torch.from_numpy(mixture)).numpy()
    estimate = jax.jit(models.build(config).apply)(variables, mixture)
    assert np.linalg.norm(estimate - expected) <= 2e-5 * np.linalg.norm(expected)


def test_full_precision_is_kept(tmp_path):
    file = published("demucs", tmp_path / "file.th", half=False)
    convert("demucs", file, tmp_path / "ours", sources=("x", "y"))
    config, variables = restore(tmp_path / "ours")
    assert config.sources == ("x", "y")
    kernel = load_model(file).state_dict()["encoder.0.0.weight"].numpy()
    np.testing.assert_array_equal(variables["params"]["encoder_0"]["conv"]["kernel"], kernel.transpose(2, 1, 0))


def test_a_file_of_another_class_is_refused_and_leaves_nothing(tmp_path):
    file = published("hdemucs", tmp_path / "file.th")
    with pytest.raises(CheckpointError, match="HDemucs', not 'demucs'; convert it as 'hdemucs'"):
        convert("demucs", file, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_missing_unknown_and_misshapen_parameters_are_told_by_name(tmp_path):
    package = contents(network("htdemucs"))
    del package["state"]["crosstransformer.layers.1.gamma_2.scale"]
    package["state"]["encoder.9.conv.bias"] = torch.zeros(3)
    package["state"]["crosstransformer.layers.0.self_attn.in_proj_bias"] = torch.zeros(47)
    package["state"]["encoder.0.conv.weight"] = torch.zeros(8, 4, 8, 2)
    torch.save(package, tmp_path / "file.th")
    with pytest.raises(CheckpointError) as error:
        convert("htdemucs", tmp_path / "file.th", tmp_path / "ours")
    for told in (
        "missing: crosstransformer.layers.1.gamma_2.scale",
        "unknown: encoder.9.conv.bias",
        "self_attn.in_proj_bias (47,)",
        "encoder.0.conv.weight (8, 4, 8, 2)",
    ):
        assert told in str(error.value)
    assert not (tmp_path / "ours").exists()


NAME = "955717e8"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve a tiny network as a published one, to an empty cache; the entry is what the test makes of it."""
    weights = PUBLISHED[NAME]
    folder = tmp_path / "served"
    folder.mkdir()
    file = published("htdemucs", folder / weights.file_name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("JAXMSS_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{weights.file_name}"
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        entry = replace(weights, url=url, size=file.stat().st_size, sha256=sha256)
        monkeypatch.setattr(loading, "PUBLISHED", {NAME: entry})
        yield
        server.shutdown()


def test_a_published_network_is_fetched_and_kept_converted(served, tmp_path):
    config, _ = loading.read(loading.resolve(NAME))
    assert (config.sources, config.segment) == (("drums", "bass", "other", "vocals"), 0.05)
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == [NAME]
    assert not list((tmp_path / "cache" / "downloads").glob("*.th"))


def test_a_file_with_another_hash_is_refused(served, tmp_path, monkeypatch):
    other = PUBLISHED[NAME].sha256
    monkeypatch.setitem(loading.PUBLISHED, NAME, replace(loading.PUBLISHED[NAME], sha256=other))
    with pytest.raises(DownloadError, match=f"its sha256 is .* instead of {other}"):
        loading.read(NAME)
    assert not (tmp_path / "cache" / "models" / NAME).exists()
