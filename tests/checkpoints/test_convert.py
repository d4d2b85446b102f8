"""From a published PyTorch file, as its authors wrote it, to a checkpoint of ours and back into memory."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import torch
from golden_weights import golden_state_dict, names

from jaxmss import models
from jaxmss.checkpoints.convert import convert
from jaxmss.checkpoints.store import restore, save
from jaxmss.checkpoints.torch_names import from_state_dict
from jaxmss.errors import CheckpointError, InputError

ARCH = "mobilenet-subband"


def published(arch: str = ARCH) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden_state_dict(names(arch)).items()}


def expected_variables(arch: str = ARCH):
    config = models.architecture(arch)
    return from_state_dict(golden_state_dict(names(arch)), models.variable_shapes(config), config, arch)


def assert_equal(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


CONSTANTS = {
    "f_helper.window": torch.ones(512),
    "stft.conv_real.weight": torch.ones(257, 1, 512),
    "istft.ola_window": torch.ones(512),
    "pqmf.ana_conv_filter.weight": torch.ones(4, 1, 64),
    "wav_spec_loss.stft.window": torch.ones(2048),
    "l1loss.weight": torch.ones(1),
    "bn0.num_batches_tracked": torch.tensor(7),
    "encoder_block1.conv_block.bn1a.num_batches_tracked": torch.tensor(7),
}


@pytest.mark.parametrize(
    "contents",
    [
        lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-3}},
        lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"model": state, "iteration": 500_000},
        lambda state: {"model": {f"ss_model.net.{name}": tensor for name, tensor in state.items()}},
        lambda state: state,
    ],
    ids=["lightning", "lightning-prefixed", "bytesep", "bytesep-prefixed", "bare"],
)
def test_every_published_layout_is_converted(tmp_path, contents):
    torch.save(contents({**published(), **CONSTANTS}), tmp_path / "file.ckpt")
    convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    config, variables = restore(tmp_path / "ours")
    assert config == models.architecture(ARCH)
    assert_equal(variables, expected_variables())


def test_the_config_stands_beside_the_weights_as_json(tmp_path):
    torch.save({"model": published()}, tmp_path / "file.ckpt")
    convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours", sources=("accompaniment",))
    stored = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert stored["kind"] == "ResUNetConfig"
    assert stored["config"]["sources"] == ["accompaniment"]
    assert restore(tmp_path / "ours")[0].sources == ("accompaniment",)


def test_half_precision_is_widened(tmp_path):
    torch.save({"model": {name: tensor.half() for name, tensor in published().items()}}, tmp_path / "file.ckpt")
    convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    ours = jax.tree.leaves(restore(tmp_path / "ours")[1])
    assert all(leaf.dtype == np.float32 for leaf in ours)
    for leaf, exact in zip(ours, jax.tree.leaves(expected_variables()), strict=True):
        np.testing.assert_array_equal(leaf, np.asarray(exact, np.float16).astype(np.float32))


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    state = published()
    state["after_conv2.bias"][1] = torch.nan
    state["bn0.running_var"][3] = torch.inf
    torch.save({"model": state}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match=r"holds NaN, infinite or complex numbers in after_conv2\.bias and 1"):
        convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_missing_unknown_and_misshapen_names_are_refused_by_name(tmp_path):
    state = published()
    del state["bn0.bias"]
    state["extra.weight"] = torch.ones(3)
    state["after_conv2.bias"] = torch.ones(5)
    torch.save({"model": state}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError) as error:
        convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    for told in ("file.ckpt", "missing: bn0.bias", "unknown: extra.weight", "of another shape: after_conv2.bias (5,)"):
        assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    torch.save({"model": published()}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more; unknown: .* and \d+ more"):
        convert("cws-small", tmp_path / "file.ckpt", tmp_path / "ours")


def test_a_wrong_number_of_sources_is_refused(tmp_path):
    with pytest.raises(InputError, match="name 1, as many as"):
        convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours", sources=("a", "b"))


def test_an_existing_checkpoint_is_never_replaced(tmp_path):
    torch.save({"model": published()}, tmp_path / "file.ckpt")
    convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(ARCH, tmp_path / "file.ckpt", tmp_path / "ours")
    assert_equal(restore(tmp_path / "ours")[1], expected_variables())


def test_a_failed_save_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / "file" / "below", models.architecture(ARCH), expected_variables())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not the config"),
        (lambda folder: (folder / "config.json").write_text('{"kind": "X", "config": {}}'), "is not the config"),
        (lambda folder: edit(folder, widhts=[1]), "did you mean 'widths'"),
        (lambda folder: edit(folder, widths="wide"), "'widths'"),
        (lambda folder: edit(folder, subbands=3), "subbands' (=3)"),
        (lambda folder: edit(folder, last_pooling=[2]), "'last_pooling' (=[2]) cannot be used: give 2 values"),
        (lambda folder: edit(folder, n_fft=513), "'n_fft' (=513) cannot be used: it must be even"),
        (lambda folder: edit(folder, magnitude_floor=0.0), "'magnitude_floor' (=0.0) cannot be used"),
        (lambda folder: edit(folder, block_norm_momentum=5.0), "'block_norm_momentum' (=5.0) cannot be used"),
        (lambda folder: edit(folder, widths=[32, 64, 64, 64, 64, 32]), "damaged or of another network"),
        (lambda folder: forget_sizes_and_truncate(folder), "damaged or of another network"),
        (lambda folder: truncate(folder / "weights"), "copy the checkpoint again"),
    ],
    ids=[
        "no-config",
        "broken-json",
        "unknown-kind",
        "typo",
        "wrong-type",
        "wrong-value",
        "too-few-values",
        "odd-window",
        "no-floor",
        "no-share",
        "other-widths",
        "cut-unsized",
        "no-weights",
    ],
)
def test_damaged_checkpoints_are_told_in_one_line(tmp_path, damage, told):
    folder = tmp_path / "ours"
    save(folder, models.architecture(ARCH), expected_variables())
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        restore(folder)
    assert told in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def edit(folder, **fields) -> None:
    stored = json.loads((folder / "config.json").read_text())
    stored["config"].update(fields)
    (folder / "config.json").write_text(json.dumps(stored))


def truncate(weights) -> None:
    for path in weights.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def forget_sizes_and_truncate(folder) -> None:
    stored = json.loads((folder / "config.json").read_text())
    del stored["files"]
    (folder / "config.json").write_text(json.dumps(stored))
    truncate(folder / "weights")
