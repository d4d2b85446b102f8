"""The LSTM's gradients against PyTorch's, and what of them crosses between devices."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import pytest
import simulated
import torch
from distance import relative_error
from golden_weights import wave

from jaxmss.models.lstm import LSTM

FEATURES = 6

PRINT_PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxmss.models.lstm import LSTM

mesh = Mesh(jax.devices(), "data")
whole, divided = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
x = jax.ShapeDtypeStruct((4, 30, 6), jnp.float32)
variables = jax.eval_shape(LSTM().init, jax.random.key(0), x)
loss = lambda variables, x: jnp.mean(LSTM().apply(variables, x) ** 2)
step = jax.jit(jax.grad(loss), in_shardings=(whole, divided), out_shardings=whole)
print(step.lower(variables, x).compile().as_text())
"""


class Twin(torch.nn.Module):
    """PyTorch's LSTM and projection, with our parameters."""

    def __init__(self, params: dict):
        super().__init__()
        self.lstm = torch.nn.LSTM(FEATURES, FEATURES, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = torch.nn.Linear(2 * FEATURES, FEATURES)
        ours = {"linear.weight": params["kernel"].T, "linear.bias": params["bias"]}
        for layer in range(2):
            of_layer = params[f"layer_{layer}"]
            for way, name in enumerate((f"l{layer}", f"l{layer}_reverse")):
                ours[f"lstm.weight_ih_{name}"] = of_layer["inputs"][way].T
                ours[f"lstm.weight_hh_{name}"] = of_layer["recurrent"][way].T
                ours[f"lstm.bias_ih_{name}"] = of_layer["bias"][way]
                ours[f"lstm.bias_hh_{name}"] = jnp.zeros_like(of_layer["bias"][way])
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in ours.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(self.lstm(x)[0])

    def gradients(self) -> dict:
        """Return the gradients of the parameters, arranged as ours are."""
        grads = {name: parameter.grad.numpy() for name, parameter in self.named_parameters()}
        arranged = {"kernel": grads["linear.weight"].T, "bias": grads["linear.bias"]}
        for layer in range(2):
            names = {"inputs": "weight_ih", "recurrent": "weight_hh", "bias": "bias_ih"}
            arranged[f"layer_{layer}"] = {
                ours: np.stack([grads[f"lstm.{theirs}_l{layer}{way}"].T for way in ("", "_reverse")])
                for ours, theirs in names.items()
            }
        return arranged


def test_gradients_equal_pytorch():
    x, target = wave(1, (3, 40, FEATURES)), wave(2, (3, 40, FEATURES))
    network = LSTM()
    variables = network.init(jax.random.key(0), x)
    twin = Twin(variables["params"]).double()
    audio = torch.from_numpy(x).double().requires_grad_()
    (twin(audio) - torch.from_numpy(target).double()).square().mean().backward()

    def loss(variables, x):
        return jnp.mean((network.apply(variables, x) - target) ** 2)

    gradients, to_x = optimised.jit(jax.grad(loss, argnums=(0, 1)))(variables, x)
    assert relative_error(to_x, audio.grad.numpy()) <= 2e-6
    errors = jax.tree.map(relative_error, gradients["params"], twin.gradients())
    assert max(jax.tree.leaves(errors)) <= 2e-6, errors


@pytest.fixture(scope="module")
def program() -> str:
    """The program for the gradients on two devices."""
    return simulated.run([sys.executable, "-c", PRINT_PROGRAM], devices=2)


def test_gradients_are_summed_over_devices_once_and_not_in_every_step(program):
    loops = simulated.loops(program)
    assert len(loops) == 4  # two layers, forwards and backwards
    computations = simulated.computations(program)
    reducing = {name for name, text in computations.items() if simulated.collectives(text)}
    assert reducing
    assert not reducing & loops
