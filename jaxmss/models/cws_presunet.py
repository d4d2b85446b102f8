"""CWS-PResUNet, audio to audio: subbands, spectrograms, a ResUNet's maps, and the way back.

With one subband and its own settings it is ResUNetDecouple+; with MobileNet blocks, MobileNet subband.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxmss import pqmf
from jaxmss.config import ResUNetConfig
from jaxmss.masking import apply_maps, magnitude_and_phase
from jaxmss.models.layers import take_stems
from jaxmss.models.resunet import ResUNet
from jaxmss.stft import cut_off, frame_mask, istft, stft
from jaxmss.typing import Array, DTypeLike, Float, Int


class CWSPResUNet(nn.Module):
    """The whole chain of one network.

    Attributes:
      config: of the network.
      dtype: inside the ResUNet, float32 or bfloat16; the signal processing is float32 always.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: ResUNetConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        mixture: Float[Array, "b c t"],
        lengths: Int[Array, " b"] | None = None,
        sources: tuple[str, ...] | None = None,
        train: bool = False,
    ) -> Float[Array, "b j c t"]:
        """Estimate `sources` (all, by default) of `mixture`.

        With `lengths`, example `b` is its first ``lengths[b]`` samples, and is separated as if it were no longer.
        Without tail padding the last ``t % subbands`` samples come out silent, as in the published systems.
        """
        config = self.config
        sources = config.sources if sources is None else sources
        length = mixture.shape[-1]
        if lengths is not None:
            mixture = cut_off(mixture, lengths[:, None])
        tail = pqmf.TAPS if config.tail_padding else 0
        band_length = (length + tail) // config.subbands
        band_lengths = None if lengths is None else ((lengths + tail) // config.subbands)[:, None, None]

        bands = pqmf.analyze(mixture, config.subbands, config.tail_padding)[..., :band_length]
        spectra = stft(bands, config.n_fft, config.hop, lengths=band_lengths)  # b c s n f
        magnitude, cos, sin = magnitude_and_phase(spectra, config.magnitude_floor)

        frames = spectra.shape[-2]
        image = magnitude.transpose(0, 4, 3, 1, 2).reshape(len(mixture), -1, frames, config.channels * config.subbands)
        existing = (
            jnp.ones((1, frames))
            if band_lengths is None
            else frame_mask(band_lengths[:, 0, 0] // config.hop + 1, frames)
        )
        maps = ResUNet(config, self.dtype, self.remat, name="resunet")(image, existing, sources, train)

        estimates = apply_maps(maps, magnitude, cos, sin, config.maps)  # b j c s n f
        if not config.separate_heads:
            estimates = take_stems(estimates, config.sources, sources)
        if band_lengths is not None:
            band_lengths = band_lengths[:, None]
        bands = istft(estimates, config.n_fft, config.hop, band_length, lengths=band_lengths)
        audio = pqmf.synthesize(bands, length, config.tail_padding)
        return audio if lengths is None else cut_off(audio, lengths[:, None, None])
