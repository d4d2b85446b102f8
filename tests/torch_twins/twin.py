"""The whole chain, audio to audio."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from . import dsp
from .network import MAPS, Network


class Twin(Network):
    """Audio (b, c, t) -> (b, j * c, t), source major, for any `(t + tail_padding) // subbands > n_fft / 2`.

    A last incomplete block of `subbands` samples does not enter the analysis, as published. It comes out silent
    without tail padding; with it all t samples are there, where the published models return up to 3 fewer.
    """

    def forward(self, audio: Tensor) -> Tensor:
        arch = self.arch
        b, c, t = audio.shape
        s, j = arch.subbands, len(arch.sources)

        subbands = dsp.analyze(F.pad(audio, (0, arch.tail_padding)), s)
        k = subbands.shape[-1]
        spectrum = dsp.stft(subbands.reshape(b * c * s, k), arch.n_fft, arch.hop)
        n, f = spectrum.shape[1:]
        magnitude, cos, sin = (x.reshape(b, c * s, n, f) for x in dsp.polar(spectrum, arch.eps))

        maps = self.maps(magnitude)
        if arch.map_major:
            maps = maps.reshape(b, j, MAPS, c, s, n, f).permute(2, 0, 1, 3, 4, 5, 6)
        else:
            maps = maps.reshape(b, j, c, MAPS, s, n, f).permute(3, 0, 1, 2, 4, 5, 6)
        mixture = (x.reshape(b, 1, c, s, n, f) for x in (magnitude, cos, sin))
        estimate = dsp.apply_maps(maps, *mixture, arch.tanh_phase, arch.tanh_residual)

        subbands = dsp.istft(estimate.reshape(b * j * c * s, n, f), arch.n_fft, arch.hop, k)
        audio = dsp.synthesize(subbands.reshape(b, j * c, s, k))[..., :t]
        return F.pad(audio, (0, t - audio.shape[-1]))
