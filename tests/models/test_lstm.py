"""The LSTM's gradients against PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optimised
import torch
from distance import relative_error
from golden_weights import wave

from jaxmss.models.lstm import LSTM

FEATURES = 6


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
