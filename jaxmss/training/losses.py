"""What training minimises: L1 distances between waveforms and between magnitude spectrograms, in float32."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxmss.masking import magnitude_and_phase
from jaxmss.stft import stft
from jaxmss.training.config import Loss
from jaxmss.typing import Array, Float, Int

FLOOR = 1e-8  # least squared magnitude of a bin: keeps the gradient finite at silence


def loss(
    estimates: Float[Array, "b j c t"], targets: Float[Array, "b j c t"], config: Loss, step: int | Int[Array, ""]
) -> Float[Array, ""]:
    """Return the distance between `estimates` and `targets`, summed over sources and averaged over all other axes.

    From step `config.conserve_after` on, counted from 0, the distance between the sums over sources is added: the
    energy conservation loss of Liu et al., "CWS-PResUNet", MDX workshop 2021.
    """
    sources = estimates.shape[1]
    total = sources * distance(estimates, targets, config)  # every source has as many samples: a sum of means
    if config.conserve_after is None:
        return total
    conservation = distance(estimates.sum(1), targets.sum(1), config)
    return total + jnp.where(step >= config.conserve_after, conservation, 0.0)


def distance(estimate: Float[Array, "*b t"], target: Float[Array, "*b t"], config: Loss) -> Float[Array, ""]:
    """Return the weighted sum of the mean distances between waveforms and between magnitude spectrograms.

    The latter is divided by the square root of the window, which brings white noise to the scale of its waveform.
    """
    result = jnp.float32(0)
    if config.waveform:
        result += config.waveform * absolute(estimate - target).mean()
    if config.spectrogram:
        difference = magnitudes(estimate, config) - magnitudes(target, config)
        result += config.spectrogram / math.sqrt(config.n_fft) * absolute(difference).mean()
    return result


def absolute(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return the absolute value with a gradient of 0 at 0, as in PyTorch: an estimate that is right stays there.

    The gradient of `jnp.abs` is 1 at 0, where silence is separated from silence.
    """
    return x * jnp.sign(x)


def magnitudes(audio: Float[Array, "*b t"], config: Loss) -> Float[Array, "*b n f"]:
    """Return the magnitude spectrogram that the loss compares."""
    return magnitude_and_phase(stft(audio, config.n_fft, config.hop), FLOOR)[0]
