"""Hybrid Demucs, waveform to waveforms: a spectral and a temporal U-Net that meet in the middle, and add up.

Défossez: Hybrid Spectrogram and Waveform Source Separation, MDX workshop 2021, figure 1; with a transformer in the
middle, Rouard, Massa, Défossez: Hybrid Transformers for Music Source Separation, ICASSP 2023, figure 1.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmss.demucs_config import HybridDemucsConfig
from jaxmss.models.cross_transformer import CrossTransformer
from jaxmss.models.demucs_layers import gelu, normalized
from jaxmss.models.hybrid_levels import (
    BandedDecoder,
    BandedEncoder,
    Decoder,
    Encoder,
    Enlarge,
    Level,
    encoding_conv,
    spectral_levels,
    temporal_levels,
)
from jaxmss.models.layers import Lengths, take_stems, zero_after
from jaxmss.stft import cut_off, istft, stft
from jaxmss.typing import Array, Complex, DTypeLike, Float, Int

EMBEDDING_SCALE = 10.0  # the embedding is stored divided by it, and so learns faster


class HybridDemucs(nn.Module):
    """The whole chain.

    Attributes:
      config: of the network.
      dtype: inside the branches, float32 or bfloat16; the signal processing is float32 always.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: HybridDemucsConfig
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

        With `lengths`, example `b` ends after ``lengths[b]`` samples, and its stems are what they would be if the
        mixture did. A network with a transformer hears at least one segment, as it has in training: silence follows
        what is shorter.
        """
        config = self.config
        sources = config.sources if sources is None else sources
        wanted, given = lengths, mixture.shape[-1]
        if lengths is not None:
            mixture = cut_off(mixture, lengths[:, None])
        if config.transformer and not train:
            least = config.windows.least
            mixture = jnp.pad(mixture, [(0, 0), (0, 0), (0, max(least - given, 0))])
            if lengths is not None:
                lengths = jnp.maximum(lengths, least) if given > least else None
        b, channels, length = mixture.shape
        frames = None if lengths is None else -(-lengths // config.hop)

        spectra = spectrogram(mixture, config, lengths)
        x, mean, deviation = normalized(_image(spectra, config), lengths=frames)
        xt, mean_t, deviation_t = normalized(mixture.swapaxes(1, 2), lengths=lengths)
        unets = _UNets(config, self.dtype, self.remat, name="unets")
        x, xt = unets(x.astype(self.dtype), xt.astype(self.dtype), frames, lengths, train)
        x = zero_after(x.astype(jnp.float32) * deviation + mean, frames)
        xt = xt.astype(jnp.float32) * deviation_t + mean_t

        temporal = xt.reshape(b, length, len(config.sources), channels).transpose(0, 2, 3, 1)
        spectral = take_stems(_spectra(x, spectra, config), config.sources, sources)
        stems = take_stems(temporal, config.sources, sources) + waveform(spectral, length, config)
        stems = stems[..., :given]
        return stems if wanted is None else cut_off(stems, wanted[:, None, None])


class _UNets(nn.Module):
    """Both branches: (b, n, f, h) and (b, t, c) to what they make of all stems, of as many positions.

    `frames` and `steps` tell how many there are in time of `x` and of `xt` where examples end earlier, or are None.
    """

    config: HybridDemucsConfig
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n f h"],
        xt: Float[Array, "b t c"],
        frames: Lengths | None,
        steps: Lengths | None,
        train: bool,
    ) -> tuple[Array, Array]:
        config, dtype = self.config, self.dtype
        remat = nn.remat if self.remat else lambda level: level
        spectral, temporal = spectral_levels(config), temporal_levels(config)
        merging = config.merging_level

        skips, skips_t, sizes, sizes_t = [], [], [], []  # sizes are those above a level
        for level in spectral:
            number, injected = level.number, None
            if number < len(temporal):
                xt = zero_after(xt, steps)
                sizes_t.append((xt.shape[1], steps))
                steps = _strides(steps, temporal[number])
                name = f"tencoder_{number}"
                if number == merging:
                    conv = encoding_conv(temporal[number], xt.shape[1], (True, True), dtype, name=name)
                    injected = conv(xt)[:, :, None]
                else:
                    xt = remat(Encoder)(config, temporal[number], dtype, name=name)(xt, steps)
                    skips_t.append(xt)
            sizes.append((x.shape[-2], frames))
            name = f"encoder_{number}"
            if x.ndim == 3:
                x, frames = zero_after(x, frames), _strides(frames, level)
            if level.bands:
                x = remat(BandedEncoder)(config, level, dtype, name=name)(x, frames)
            else:
                x = remat(Encoder)(config, level, dtype, name=name)(x, frames, injected)
            if number == 0 and config.embedding:
                embedding = self.param("embedding", _smooth_embedding, x.shape[-2:])
                x = x + (config.embedding * EMBEDDING_SCALE * embedding).astype(dtype)
            skips.append(x)
            if number == merging:
                x = x[:, :, 0]  # one frequency is left: the levels below go on in time

        if config.transformer:
            transformer = CrossTransformer(config.transformer, dtype, self.remat, name="transformer")
            x, xt = transformer(x, xt, frames, steps, train)
        else:
            x = jnp.zeros_like(x)  # all signal goes through the skips

        for level in reversed(spectral):
            number, name = level.number, f"decoder_{config.depth - 1 - level.number}"
            skip = skips.pop()
            if level.bands:
                x = remat(BandedDecoder)(config, level, dtype, name=name)(x, skip, frames)
            else:
                x = x.reshape(skip.shape)
                before, x = remat(Decoder)(config, level, dtype, name=name)(x, skip, frames)
            size, above = sizes.pop()
            x = _cut(x, level.padding, size, axis=-2)
            x = x if number == 0 else gelu(x)
            if number < len(temporal):
                name = f"tdecoder_{len(temporal) - 1 - number}"
                if number == merging:
                    xt = Enlarge(config, temporal[number], dtype, name=name)(before[:, :, 0], frames)
                else:
                    _, xt = remat(Decoder)(config, temporal[number], dtype, name=name)(xt, skips_t.pop(), steps)
                size, steps = sizes_t.pop()
                xt = _cut(xt, temporal[number].padding, size, axis=1)
                xt = xt if number == 0 else gelu(xt)
            frames = above
        return x, xt


def spectrogram(
    audio: Float[Array, "b c t"], config: HybridDemucsConfig, lengths: Lengths | None = None
) -> Complex[Array, "b c n f"]:
    """Transform audio into one frame for each hop, without the last bin, scaled by ``1 / sqrt(n_fft)``.

    With `lengths`, example `b` has only so many samples, zeros follow them, and its later frames are of no use.
    """
    hop, length = config.hop, audio.shape[-1]
    frames = -(-length // hop)
    margin = hop // 2 * 3
    if config.old_padding:
        padded = jnp.pad(audio, [(0, 0), (0, 0), (margin, margin + frames * hop - length)])
    elif lengths is None:
        padded = _mirrored(audio, margin, margin + frames * hop - length)
    else:
        ends = -(-lengths // hop) * hop - lengths
        mirrored = functools.partial(_mirrored_earlier, before=margin, total=frames * hop + 2 * margin)
        padded = jax.vmap(mirrored)(audio, lengths, margin + ends)
    spectra = stft(padded / math.sqrt(config.n_fft), config.n_fft, hop, pad_mode="constant")
    return spectra[..., 2 : 2 + frames, :-1]  # the others hold nothing but padding


def waveform(spectra: Complex[Array, "*b n f"], length: int, config: HybridDemucsConfig) -> Float[Array, "*b t"]:
    """Invert `spectrogram`; with the old padding the audio comes 3/8 of a window late, as its networks have learned."""
    frames = spectra.shape[-2]
    spectra = jnp.pad(spectra, [(0, 0)] * (spectra.ndim - 2) + [(2, 2), (0, 1)])
    margin = 0 if config.old_padding else config.hop // 2 * 3
    audio = istft(spectra, config.n_fft, config.hop, frames * config.hop + 2 * margin)
    return audio[..., margin : margin + length] * math.sqrt(config.n_fft)


def _mirrored(audio: Float[Array, "b c t"], before: int, after: int) -> Float[Array, "b c u"]:
    """Pad the last axis by reflection; zeros come first where there is not enough audio to mirror."""
    missing = max(max(before, after) - audio.shape[-1] + 1, 0)
    zeros_after = min(after, missing)
    zeros_before = missing - zeros_after
    audio = jnp.pad(audio, [(0, 0), (0, 0), (zeros_before, zeros_after)])
    return jnp.pad(audio, [(0, 0), (0, 0), (before - zeros_before, after - zeros_after)], mode="reflect")


def _mirrored_earlier(
    audio: Float[Array, "c t"], length: Int[Array, ""], after: Int[Array, ""], before: int, total: int
) -> Float[Array, "c u"]:
    """Do as `_mirrored` does with the first `length` samples; what comes later in the `total` is of no use."""
    missing = jnp.maximum(jnp.maximum(before, after) - length + 1, 0)
    zeros_after = jnp.minimum(after, missing)
    zeros_before = missing - zeros_after
    first, last = -zeros_before, length + zeros_after - 1  # where the mirrors are
    place = jnp.arange(total) - before
    place = jnp.where(place < first, 2 * first - place, place)
    mirrored = jnp.where(place > last, 2 * last - place, place)
    real = (mirrored >= 0) & (mirrored < length)
    return jnp.where(real, audio[:, jnp.clip(mirrored, 0, audio.shape[1] - 1)], 0)


def _image(spectra: Complex[Array, "b c n f"], config: HybridDemucsConfig) -> Float[Array, "b n f h"]:
    """Return what the spectral branch sees: real and imaginary parts as channels, or magnitudes."""
    spectra = spectra.transpose(0, 2, 3, 1)
    if config.output == "magnitude":
        return _magnitude(spectra)
    return jnp.stack([spectra.real, spectra.imag], axis=-1).reshape(*spectra.shape[:3], -1)


def _spectra(
    x: Float[Array, "b n f h"], mixture: Complex[Array, "b c n f"], config: HybridDemucsConfig
) -> Complex[Array, "b j c n f"]:
    """Return the spectra of the stems: `x` itself, or as magnitudes to the mixture's phase."""
    b, n, f, _ = x.shape
    shape = (b, n, f, len(config.sources), config.channels)
    if config.output == "complex":
        parts = x.reshape(*shape, 2)
        return (parts[..., 0] + 1j * parts[..., 1]).transpose(0, 3, 4, 1, 2)
    magnitude = _magnitude(mixture)
    silent = magnitude == 0
    phase = jnp.where(silent, 1, mixture / jnp.where(silent, 1, magnitude))  # that of silence is taken as zero
    return x.reshape(shape).transpose(0, 3, 4, 1, 2) * phase[:, None]


def _magnitude(spectra: Complex[Array, "*b"]) -> Float[Array, "*b"]:
    """Return the magnitudes, with a gradient of zero at silence."""
    power = jnp.square(spectra.real) + jnp.square(spectra.imag)
    return jnp.where(power == 0, 0, jnp.sqrt(jnp.where(power == 0, 1, power)))


def _strides(positions: Lengths | None, level: Level) -> Lengths | None:
    """Return how many positions in time a level leaves."""
    return None if positions is None else -(-positions // level.stride)


def _cut(x: Array, start: int, length: int, axis: int) -> Array:
    return jax.lax.slice_in_dim(x, start, start + length, axis=axis % x.ndim)


def _smooth_embedding(key, shape: tuple[int, int]):
    """Initialise the embedding of frequencies as a random walk of even deviation."""
    walk = jnp.cumsum(jax.random.normal(key, shape), axis=0)
    return walk / jnp.sqrt(jnp.arange(1, shape[0] + 1))[:, None] / EMBEDDING_SCALE
