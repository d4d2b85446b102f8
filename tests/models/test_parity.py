"""Small networks of every kind against the PyTorch twin: other lengths, batches, channels, subbands; gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest
import torch
from distance import relative_error
from golden_weights import golden_state_dict, wave
from torch_twins import make_twin

from jaxmss import models
from jaxmss.checkpoints.torch_names import from_state_dict

WIDTHS = (4, 6, 8, 8, 10, 10)
FEW = {"widths": (4, 6, 8)}  # levels, which compile sooner

# arch, batch, channels, samples, and fields of both the config and the twin
CASES = [
    ("cws-vocals", 2, 2, 60_003, {"widths": WIDTHS, "blocks": 2, "head_blocks": 2}),
    ("cws-vocals", 2, 1, 9_001, {"widths": WIDTHS, "blocks": 1, "subbands": 2, "n_fft": 256, "hop": 60}),
    ("cws-vocals", 2, 2, 90_000, {"widths": WIDTHS, "blocks": 2, "subbands": 8, "n_fft": 128, "hop": 33}),
    ("cws-joint", 2, 2, 20_000, {"widths": WIDTHS, "blocks": 2, "bottleneck_levels": 2}),
    ("cws-small", 3, 2, 5_555, {"widths": WIDTHS}),
    ("resunet143-subband", 1, 2, 20_002, {"widths": WIDTHS, "blocks": 2}),
    ("resunet143-subband", 2, 1, 7_777, {"widths": WIDTHS, "blocks": 1, "sources": ("vocals", "accompaniment")}),
    ("resunet143-ismir2021", 2, 2, 15_001, {"widths": WIDTHS, "blocks": 2}),
    ("mobilenet-subband", 2, 2, 10_001, {"widths": (4, 6, 6, 6, 6, 6)}),
]


def pair(arch: str, channels: int, fields: dict, shift: float = 0.0):
    """Return a twin with golden weights, our config and our variables; biases are shifted up and down in turn."""
    twin = make_twin(arch, channels=channels, **fields)
    shapes = {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}
    state = golden_state_dict(shapes)
    for name in state:
        if name.endswith("bias"):
            state[name] = state[name] + np.resize(np.float32([shift, -shift]), state[name].shape)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=False)
    config = replace(models.architecture(arch), channels=channels, **fields)
    return twin, config, from_state_dict(state, models.variable_shapes(config), config, arch)


@pytest.mark.parametrize(("arch", "batch", "channels", "samples", "fields"), CASES)
def test_forward_equals_the_twin(arch, batch, channels, samples, fields):
    twin, config, variables = pair(arch, channels, fields)
    mixture = wave(1, (batch, channels, samples))
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(mixture)).numpy()
    ours = jax.jit(models.build(config).apply)(variables, mixture)
    assert ours.shape == (batch, len(config.sources), channels, samples)
    assert relative_error(ours.reshape(theirs.shape), theirs) <= 2e-5


def torch_gradients(
    twin: torch.nn.Module, mixture: np.ndarray, target: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean square error: for all parameters, as one vector, and for the mixture, in the twin's own type."""
    dtype = next(twin.parameters()).dtype
    audio = torch.from_numpy(mixture).to(dtype).requires_grad_()
    torch.set_num_threads(threads)
    estimate = twin(audio).reshape(len(mixture), -1, *mixture.shape[1:])
    (estimate - torch.from_numpy(target).to(dtype)[:, None]).square().mean().backward()
    torch.set_num_threads(1)
    return np.concatenate([parameter.grad.numpy().ravel() for parameter in twin.parameters()]), audio.grad.numpy()


def gradients_and_statistics(twin: torch.nn.Module, config) -> dict:
    """What `torch_gradients` left in a twin, as our variables."""
    gradients = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    statistics = {name: tensor.numpy() for name, tensor in twin.state_dict().items() if "running" in name}
    return from_state_dict({**gradients, **statistics}, models.variable_shapes(config), config, "the twin")


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    ("arch", "batch", "channels", "samples", "fields", "train"),
    [
        (*CASES[0], True),
        *((*CASES[i][:-1], CASES[i][-1] | FEW, True) for i in (3, 4, 6, 7, 8)),
        *((*CASES[i][:-1], CASES[i][-1] | FEW, False) for i in (3,)),
    ],
)
def test_gradients_and_statistics_equal_the_twin(arch, batch, channels, samples, fields, train):
    twin, config, variables = pair(arch, channels, fields)
    mixture, target = (wave(seed, (batch, channels, samples)) for seed in (1, 2))
    network = models.build(config, remat=train)

    def loss(params, batch_stats, mixture):
        inputs = {"params": params, "batch_stats": batch_stats}
        estimate, changed = network.apply(inputs, mixture, train=train, mutable=["batch_stats"])
        return jnp.mean((estimate - target[:, None]) ** 2), changed

    # rounding errors, up to three times as large without optimisation, would exceed the tolerances on some CPUs
    compute = optimised.jit(jax.grad(loss, argnums=(0, 2), has_aux=True))
    (gradients, to_mixture), changed = compute(variables["params"], variables["batch_stats"], mixture)

    # float64 is the truth that all float32 computations approach, PyTorch's own with other errors in other threads: on
    # an AMD EPYC it is 9.9e-4 and 1.4e-3 off for resunet143-ismir2021, up to 1.7e-2 for mobilenet-subband
    draws = [torch_gradients(copy.deepcopy(twin).train(train), mixture, target, threads) for threads in (1, 2)]
    exact = torch_gradients(twin.double().train(train), mixture, target)
    errors = [[relative_error(*both) for both in zip(draw, exact, strict=True)] for draw in draws]
    allowed = [min(max(*of_draws, 1e-3), 2e-3) for of_draws in zip(*errors, strict=True)]
    theirs = gradients_and_statistics(twin, config)
    # the kinks of relu amplify rounding where gradients of many samples meet: norms over all parameters
    assert relative_error(flat(gradients), flat(theirs["params"])) <= allowed[0]
    assert relative_error(to_mixture, exact[1]) <= allowed[1]
    assert relative_error(flat(changed["batch_stats"]), flat(theirs["batch_stats"])) <= 1e-5

    # activations and maps that stay away from the kinks, on either side
    twin, _, variables = pair(arch, channels, fields, shift=4.0)
    (gradients, _), _ = compute(variables["params"], variables["batch_stats"], mixture)
    torch_gradients(twin.double().train(train), mixture, target)
    theirs = gradients_and_statistics(twin, config)
    assert relative_error(flat(gradients), flat(theirs["params"])) <= 2e-6
