"""How the published networks are trained: losses, and steps of Adam with AMSGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from . import dsp
from .twin import Twin

N_FFT, HOP, EPS = 2048, 441, 1e-8


def loss(
    estimates: Tensor, targets: Tensor, waveform: float = 1.0, spectrogram: float = 0.0, conserve: bool = False
) -> Tensor:
    """Sources (b, j, c, t): the distances of all sources, and on request that of their sums, added up."""
    pairs = list(zip(estimates.unbind(1), targets.unbind(1), strict=True))
    if conserve:
        pairs.append((estimates.sum(1), targets.sum(1)))
    return sum(waveform * l1(x, y) + spectrogram * l1(spectrum(x), spectrum(y)) / N_FFT**0.5 for x, y in pairs)


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()


def spectrum(audio: Tensor) -> Tensor:
    """Magnitudes of (b, c, t)."""
    return dsp.polar(dsp.stft(audio.flatten(0, 1), N_FFT, HOP), EPS)[0]


class Learner:
    """A twin in training, by the plain L1 distance of waveforms."""

    def __init__(self, twin: Twin):
        self.twin = twin.train()
        self.adam = torch.optim.Adam(twin.parameters(), amsgrad=True)

    def step(self, mixture: Tensor, targets: Tensor, rate: float) -> tuple[float, float]:
        """Learn from mixtures (b, c, t) and sources (b, j, c, t); return loss and gradient norm before the update."""
        self.adam.zero_grad()
        value = loss(self.twin(mixture).reshape(targets.shape), targets)
        value.backward()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.twin.parameters()])
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        return value.item(), norm.item()

    def moments(self, name: str) -> dict[str, Tensor]:
        """The moments ("exp_avg", "exp_avg_sq" or "max_exp_avg_sq") of all parameters, zeros before the first step."""
        parameters = self.twin.named_parameters()
        return {key: self.adam.state[value].get(name, torch.zeros_like(value)) for key, value in parameters}
