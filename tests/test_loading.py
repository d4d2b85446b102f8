from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import torch
from golden_weights import forward_golden, golden_state_dict, names, wave

from jaxmss import loading
from jaxmss.checkpoints.published import PUBLISHED, PublishedWeights
from jaxmss.errors import CheckpointError, DownloadError, InputError
from jaxmss.loading import load

NAME = "mobilenet-subband-vocals"  # the smallest


@dataclass
class Host:
    """A web server of one folder, and how often each of its files was asked for."""

    folder: Path
    requests: list[str]
    published: Mapping[str, PublishedWeights]


@pytest.fixture
def host(tmp_path, monkeypatch) -> Iterator[Host]:
    """Serve the golden weights as those that are published, to an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    state = {name: torch.from_numpy(value) for name, value in golden_state_dict(names("mobilenet-subband")).items()}
    weights = PUBLISHED[NAME]
    torch.save({"model": state}, folder / weights.file_name)
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        size = (folder / weights.file_name).stat().st_size
        local = replace(weights, size=size, url=f"http://127.0.0.1:{server.server_port}/{weights.file_name}")
        published = {**PUBLISHED, NAME: local}
        monkeypatch.setattr(loading, "PUBLISHED", published)
        monkeypatch.setenv("JAXMSS_CACHE", str(tmp_path / "cache"))
        yield Host(folder, requests, published)
        server.shutdown()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_published_weights_are_fetched_once_and_kept_converted(host, tmp_path):
    model = load(NAME)
    assert model.sources == ("vocals",)
    estimate = np.asarray(model(wave(0, (1, 2, 44100))))[0].reshape(1, 2, 44100)
    golden = forward_golden("mobilenet-subband")
    assert np.linalg.norm(estimate - golden) <= 2e-5 * np.linalg.norm(golden)

    again = load(NAME)
    assert len(host.requests) == 1
    assert jax.tree.all(jax.tree.map(np.array_equal, model.variables, again.variables))
    assert not files(tmp_path / "cache/downloads")


def test_two_that_ask_at_once_fetch_once(host):
    models = []
    threads = [threading.Thread(target=lambda: models.append(load(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 2
    assert len(host.requests) == 1


def test_weights_that_are_not_there_leave_nothing(host, tmp_path):
    (host.folder / PUBLISHED[NAME].file_name).unlink()
    with pytest.raises(DownloadError, match="404"):
        load(NAME)
    assert not files(tmp_path / "cache")


def test_weights_of_another_network_leave_no_checkpoint(host, tmp_path):
    file = host.folder / PUBLISHED[NAME].file_name
    torch.save({"model": {"weight": torch.zeros(1)}}, file)
    host.published[NAME] = replace(host.published[NAME], size=None)
    with pytest.raises(CheckpointError, match="vocals_7"):
        load(NAME)
    assert not files(tmp_path / "cache/models")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("JAXMSS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError, match=r"cannot write .*cache.*; make room there, or set JAXMSS_CACHE"):
        load(NAME)


def test_a_directory_is_loaded_as_it_was_saved():
    model = load(tiny.checkpoint("cws-joint"))
    assert model.sources == ("bass", "drums", "other")
    assert (model.sample_rate, model.channels) == (44100, 2)
    assert load(str(tiny.checkpoint("cws-joint"))).config == model.config


def test_bfloat16_inside_stays_near_float32():
    mixture = wave(1, (1, 2, 30000))
    exact = np.asarray(tiny.model("cws-small")(mixture))
    rounded = np.asarray(load(tiny.checkpoint("cws-small"), "bfloat16")(mixture))
    assert rounded.dtype == np.float32
    assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.parametrize(("name", "told"), [("cws-vocls", "did you mean 'cws-vocals'"), ("/no/where", "choose from")])
def test_an_unknown_name_is_refused_with_what_is_known(name, told):
    with pytest.raises(InputError, match=f"'{name}' is neither a checkpoint directory nor a published model; {told}"):
        load(name)


def test_a_file_is_refused_with_how_to_convert_it(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"model.ckpt' is a file, not a .*; convert it by `jaxmss convert`"):
        load(tmp_path / "model.ckpt")


def test_cut_weights_are_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny.checkpoint("cws-small"), checkpoint)
    largest = max(files(checkpoint / "weights"), key=lambda file: file.stat().st_size)
    os.truncate(largest, 100)
    with pytest.raises(
        CheckpointError, match=f"{largest.name} is damaged: it holds 100 of .* copy the checkpoint again"
    ):
        load(checkpoint)


def test_weights_with_changed_bytes_are_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny.checkpoint("cws-small"), checkpoint)
    metadata = checkpoint / "weights/_METADATA"
    metadata.write_bytes(b"?" * metadata.stat().st_size)
    with pytest.raises(CheckpointError, match="damaged or of another network"):
        load(checkpoint)


def test_a_place_for_compiled_programs_that_was_given_is_left(tmp_path):
    code = f"import jax, jaxmss; jaxmss.load({str(tiny.checkpoint('cws-small'))!r})"
    code += "; print(jax.config.values['jax_compilation_cache_dir'])"
    for given, kept in (({"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}, tmp_path), ({}, Path("programs"))):
        environment = {**os.environ, "JAXMSS_CACHE": "", **given} if given else dict(os.environ)
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert told.stdout.strip().endswith(str(kept))


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="choose float32 or bfloat16"):
        loading.load("spleeter-2stems", dtype="float16")


def test_the_parts_are_at_hand_after_importing_the_package():
    program = "import jaxmss; print(jaxmss.pqmf.analyze, jaxmss.stft.istft, jaxmss.masking.apply_maps)"
    subprocess.run([sys.executable, "-c", program], check=True)
