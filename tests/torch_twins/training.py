"""How the published networks are trained: losses, and one step of Adam with AMSGrad."""

from __future__ import annotations

from torch import Tensor

from . import dsp

N_FFT, HOP, EPS = 2048, 441, 1e-8


def loss(estimates: Tensor, targets: Tensor, waveform: float, spectrogram: float, conserve: bool) -> Tensor:
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
