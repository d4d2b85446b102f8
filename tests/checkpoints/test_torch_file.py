"""Files that PyTorch writes are read back without it."""

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from jaxmss.checkpoints.pickle_data import Opaque
from jaxmss.checkpoints.torch_file import find_state_dict, read_torch_file
from jaxmss.errors import CheckpointError


class ModelCheckpoint:
    """A stand-in for Lightning's callback: an arbitrary class in the file."""

    def __init__(self):
        self.best = torch.tensor(0.5)

    class Mode:
        """A nested class, which protocol 2 reaches through `getattr`."""


class HyperParameters(dict):
    """A stand-in for Lightning's AttributeDict."""


def save_and_read(contents, path: Path):
    torch.save(contents, path)
    return read_torch_file(path)


def assert_same(array: np.ndarray, tensor: torch.Tensor) -> None:
    if tensor.dtype == torch.bfloat16:
        assert array.dtype == ml_dtypes.bfloat16
        array, tensor = array.astype(np.float32), tensor.float()
    expected = tensor.detach().numpy()
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


NUMBERS = torch.arange(-12, 12).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "name",
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool", "complex64", "complex128"],
)
def test_every_type_of_element(tmp_path, name):
    tensor = NUMBERS.to(getattr(torch, name))
    assert_same(save_and_read({"x": tensor}, tmp_path / "x.pt")["x"], tensor)


@pytest.mark.parametrize("name", ["uint8", "uint16", "uint32", "uint64"])
def test_unsigned_types(tmp_path, name):
    tensor = torch.tensor([0, 1, 255], dtype=getattr(torch, name))
    assert_same(save_and_read([tensor], tmp_path / "x.pt")[0], tensor)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats(tmp_path, name):
    tensor = torch.tensor([0.0, 1.5, -2.0]).to(getattr(torch, name))
    array = save_and_read([tensor], tmp_path / "x.pt")[0]
    assert array.dtype.name == name
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize(
    "tensor",
    [
        NUMBERS.permute(2, 0, 1),
        NUMBERS[:, 1:, ::2],
        NUMBERS[1, 2, 3],
        NUMBERS[:0],
        torch.empty(0, 5),
        torch.tensor(3.0),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=["permuted", "sliced", "scalar-view", "empty-view", "empty", "scalar", "channels-last"],
)
def test_every_layout(tmp_path, tensor):
    assert_same(save_and_read({"x": tensor}, tmp_path / "x.pt")["x"], tensor)


def test_tensors_that_share_a_storage_share_memory(tmp_path):
    base = torch.arange(10.0)
    contents = save_and_read({"all": base, "tail": base[4:], "again": base}, tmp_path / "x.pt")
    assert_same(contents["tail"], base[4:])
    assert np.shares_memory(contents["all"], contents["tail"])
    assert np.shares_memory(contents["all"], contents["again"])


def test_arrays_are_read_only_and_outlive_the_file(tmp_path):
    path = tmp_path / "x.pt"
    array = save_and_read(torch.arange(1000.0), path)
    path.unlink()
    assert not array.flags.writeable
    assert array.sum() == 499500


def test_parameters_and_plain_objects(tmp_path):
    contents = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [1, (2.5, None, True, -(2**70)), {"a": b"bytes", "ü": ""}, {1, 2}, frozenset({3}), b""],
        "ordered": OrderedDict(a=1, b=2),
        "default": defaultdict(list, {"k": [1]}),
        "size": torch.Size([1, 2]),
        3: "a number as key",
    }
    read = save_and_read(contents, tmp_path / "x.pt")
    assert_same(read.pop("parameter"), contents.pop("parameter"))
    assert read == contents
    assert type(read["ordered"]) is dict


def test_state_dict_of_a_network_with_metadata(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    state = network.state_dict()
    assert hasattr(state, "_metadata")
    read = find_state_dict(save_and_read(state, tmp_path / "x.pt"), "x.pt")
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert_same(read[name], tensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    contents = {"x": torch.arange(3), "other": [("a", 1.0), {"b": {2}}, b"xyz"], "class": ModelCheckpoint}
    torch.save(contents, tmp_path / "x.pt", pickle_protocol=protocol)
    read = read_torch_file(tmp_path / "x.pt")
    assert_same(read["x"], contents["x"])
    assert read["other"] == contents["other"]


def lightning_checkpoint() -> dict:
    """Return a checkpoint with the layout of PyTorch Lightning 1.x: objects of many classes around the weights."""
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), amsgrad=True)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 49,
        "global_step": 12345,
        "pytorch-lightning_version": "1.2.1",
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.09), "mode": ModelCheckpoint.Mode()}},
        "checkpoint_callback": ModelCheckpoint(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [0.001], "_get_lr_called_within_step": False, "lr_lambdas": [None]}],
        "hparams_name": "kwargs",
        "hyper_parameters": HyperParameters(
            args=argparse.Namespace(gpus=8, path=Path("/data"), nested=argparse.Namespace(layers=[1, 2])),
            score=np.float64(8.92),
            device=torch.device("cpu"),
            dtype=torch.float32,
            range=slice(1, 2),
        ),
        "state_dict": OrderedDict((f"generator.{name}", tensor) for name, tensor in network.state_dict().items()),
    }


def test_old_lightning_layout(tmp_path):
    contents = lightning_checkpoint()
    read = save_and_read(contents, tmp_path / "epoch=49.ckpt")
    weights = find_state_dict(read, "epoch=49.ckpt")
    assert set(weights) == {"generator.weight", "generator.bias"}
    for name, tensor in contents["state_dict"].items():
        assert_same(weights[name], tensor)
    assert read["epoch"] == 49
    assert isinstance(read["hyper_parameters"], Opaque)
    assert_same(
        read["optimizer_states"][0]["state"][0]["max_exp_avg_sq"],
        contents["optimizer_states"][0]["state"][0]["max_exp_avg_sq"],
    )


def test_bytesep_layout(tmp_path):
    tensor = torch.randn(2, 2)
    read = save_and_read({"step": 500000, "model": {"bn0.weight": tensor}}, tmp_path / "x.pth")
    assert_same(find_state_dict(read, "x.pth")["bn0.weight"], tensor)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "i8", "u1", "?", "c8", "f2"])
def test_numpy_arrays_in_the_pickle(tmp_path, dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype, order)
    read = save_and_read(
        {"a": array, "same": array, "b": array[:1].copy(), "empty": array[:0].copy()}, tmp_path / "x.pt"
    )
    for name, expected in {"a": array, "same": array, "b": array[:1], "empty": array[:0]}.items():
        assert read[name].dtype == expected.dtype
        np.testing.assert_array_equal(read[name], expected)


def test_numpy_arrays_of_other_kinds_stay_inert(tmp_path):
    contents = {"objects": np.array([{}, None]), "text": np.array(["a"]), "record": np.zeros(2, "f4,i4")}
    read = save_and_read(contents, tmp_path / "x.pt")
    assert all(isinstance(value, Opaque) for value in read.values())


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"state_dict": {"a": torch.ones(1), "b": ModelCheckpoint()}}, r"'b' \('.*ModelCheckpoint'\)"),
        ({"state_dict": {"a": 1.0}}, r"'a' \(float\)"),
        ({"model": torch.nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear.*state_dict"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear.*state_dict"),
        ({"state_dict": {}}, "no named tensors"),
        ([torch.ones(1)], "no named tensors"),
        ({1: torch.ones(1)}, "a name that is a int"),
        ({str(n): n for n in range(9)}, "and 4 more"),
    ],
)
def test_a_file_without_a_dict_of_tensors_is_refused_by_name(tmp_path, contents, says):
    read = save_and_read(contents, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=says) as error:
        find_state_dict(read, tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in str(error.value)
    assert "\n" not in str(error.value)
