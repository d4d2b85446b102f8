"""Fresh networks against fresh PyTorch twins."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from torch_twins import make_twin

from jaxmss import models
from jaxmss.checkpoints.torch_names import torch_names
from jaxmss.config import ResUNetConfig
from jaxmss.typing import Variables

WIDTHS = (8, 12, 16, 16, 20, 20)
NETWORKS = {
    "cws-joint": {"widths": WIDTHS, "blocks": 3, "head_blocks": 2},
    "resunet143-ismir2021": {"widths": WIDTHS, "blocks": 2, "head_blocks": 2},
    "mobilenet-subband": {"widths": (8, 12, 12, 12, 12, 12)},
}


@functools.cache
def initialiser(config: ResUNetConfig) -> Callable[[jax.Array], Variables]:
    second = jnp.zeros((1, config.channels, config.sample_rate))
    init = models.build(config).init
    return jax.jit(lambda key: init(key, second))


def fresh(arch: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of our network by its published name, layers that are scanned over one by one."""
    config = replace(models.architecture(arch), **NETWORKS[arch])
    tensors = {}
    for path, leaf in flatten_dict(initialiser(config)(jax.random.key(seed, impl="rbg"))).items():
        layers = leaf if "rest" in path else [leaf]
        tensors |= zip(torch_names(path, leaf.shape, config), map(np.asarray, layers), strict=True)
    return tensors


def bounds(twin: torch.nn.Module, torch_default: bool) -> dict[str, float]:
    """The bound of each kernel's uniform distribution: Xavier's, or PyTorch's default for transposed convolutions."""
    found = {}
    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(module.weight)
            default = torch_default and isinstance(module, torch.nn.ConvTranspose2d)
            found[f"{name}.weight"] = 1 / math.sqrt(fan_in) if default else math.sqrt(6 / (fan_in + fan_out))
    return found


def assert_uniform(values: np.ndarray, bound: float) -> None:
    scaled = np.ravel(values) / bound
    spread = 5 / math.sqrt(scaled.size)  # five standard deviations of a sample's moments, or more
    assert np.max(np.abs(scaled)) <= 1 + 1e-6
    assert abs(np.mean(scaled)) <= spread * math.sqrt(1 / 3)
    assert abs(np.mean(scaled**2) - 1 / 3) <= spread * math.sqrt(4 / 45)


@pytest.mark.parametrize("arch", NETWORKS)
def test_every_kernel_is_drawn_like_the_twins(arch):
    twin = make_twin(arch, **NETWORKS[arch])
    ours, theirs = fresh(arch), twin.state_dict()
    for name, bound in bounds(twin, torch_default=arch == "cws-joint").items():
        assert ours[name].size == theirs[name].numel()
        assert_uniform(theirs[name].numpy(), bound)  # the oracle's own draw: the bound is PyTorch's
        assert_uniform(ours[name], bound)


@pytest.mark.parametrize("arch", NETWORKS)
def test_all_but_kernels_equal_the_twins(arch):
    ours, theirs = fresh(arch), make_twin(arch, **NETWORKS[arch]).state_dict()
    others = [name for name, tensor in theirs.items() if tensor.ndim == 1]
    assert {name for name in ours if ours[name].ndim == 1} == set(others)
    for name in others:
        np.testing.assert_array_equal(ours[name], theirs[name].numpy(), name)


def test_no_two_layers_and_no_two_seeds_draw_the_same():
    drawn = [fresh("cws-joint", seed) for seed in (0, 1)]
    kernels = [tensor for network in drawn for tensor in network.values() if tensor.ndim == 4]
    signs = [tuple(np.sign(np.ravel(kernel)[:64])) for kernel in kernels]  # whatever the bound
    assert len(set(signs)) == len(signs)
