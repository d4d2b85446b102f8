"""Spleeter, audio to audio: one U-Net for each source estimates its magnitudes, whose ratios mask the mixture.

Hennequin, Khlif, Voituret, Moussallam: Spleeter: a fast and efficient music source separation tool with pre-trained
models, JOSS 2020; the U-Net is that of Jansson et al., ISMIR 2017, figure 1.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmss.config import SpleeterConfig
from jaxmss.models.layers import BatchNorm, Upsample, torch_default_uniform, xavier_uniform
from jaxmss.stft import istft, stft
from jaxmss.typing import Array, DTypeLike, Float, Int

Image = Float[Array, "b f n _"]  # channels-last

_SLOPE = 0.2
_EPSILON = 1e-3  # of the norms
_FLOOR = 1e-10  # added to the power that the masks divide


class Spleeter(nn.Module):
    """The whole chain.

    Attributes:
      config: of the network.
      dtype: inside the U-Nets, float32 or bfloat16; the signal processing is float32 always.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: SpleeterConfig
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
        The U-Nets see `frames_per_chunk` frames at a time; the last chunk is filled up with zeros.
        """
        config = self.config
        sources = config.sources if sources is None else sources
        spectra = stft(
            mixture,
            config.n_fft,
            config.hop,
            lengths=None if lengths is None else lengths[:, None],
            pad_mode="constant",
        )  # b c n f
        chunks = self._chunks(jnp.abs(spectra[..., : config.bins]))

        # a mask is a source's share of all sources' power, so that every U-Net runs, whatever is asked for
        unet = nn.remat(UNet, static_argnums=(2,)) if self.remat else UNet
        power = {
            source: jnp.square(unet(config, self.dtype, name=f"unet_{source}")(chunks, train))
            for source in config.sources
        }
        total = sum(power.values()) + _FLOOR
        shares = jnp.stack([(power[source] + _FLOOR / len(power)) / total for source in sources])
        masks = self._joined(shares, len(mixture), spectra.shape[-2])
        masks = jnp.pad(masks, [(0, 0)] * 4 + [(0, spectra.shape[-1] - config.bins)])  # silence above the bins

        ends = None if lengths is None else lengths[:, None, None]
        return istft(masks * spectra[:, None], config.n_fft, config.hop, mixture.shape[-1], lengths=ends)

    def _chunks(self, magnitude: Float[Array, "b c n f"]) -> Float[Array, "_ f _ c"]:
        """Cut the frames into chunks, which become examples of the batch."""
        b, c, n, f = magnitude.shape
        chunk = self.config.frames_per_chunk
        padded = jnp.pad(magnitude, [(0, 0), (0, 0), (0, -n % chunk), (0, 0)])
        return padded.reshape(b, c, -1, chunk, f).transpose(0, 2, 4, 3, 1).reshape(-1, f, chunk, c)

    def _joined(self, masks: Float[Array, "j _ f _ c"], b: int, n: int) -> Float[Array, "b j c n f"]:
        """Undo `_chunks`."""
        j, _, f, chunk, c = masks.shape
        masks = masks.reshape(j, b, -1, f, chunk, c).transpose(1, 0, 5, 2, 4, 3)
        return masks.reshape(b, j, c, -1, f)[..., :n, :]


class UNet(nn.Module):
    """Estimate one source's magnitudes: strided convolutions down, transposed ones up, and a mask on the input.

    Attributes:
      config: of the network.
      dtype: of the computation; the mask is applied in float32.
    """

    config: SpleeterConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, magnitude: Image, train: bool) -> Image:
        """Return the source's magnitudes, of the mixture's shape."""
        widths = self.config.widths
        x = magnitude.astype(self.dtype)
        skips: list[Array] = []
        for level, width in enumerate(widths, start=1):
            if skips:
                x = jax.nn.leaky_relu(self._norm(f"down{level - 1}_bn")(x, train), _SLOPE)
            x = Down(width, self.dtype, name=f"down{level}")(x)
            skips.append(x)  # a skip is the bare convolution: norm and slope are for the next level alone

        for level, width in enumerate((*reversed(widths[:-1]), 1), start=1):
            skip = skips.pop()
            x = skip if level == 1 else jnp.concatenate([skip, x], axis=-1)
            x = Upsample(
                width,
                (2, 2),
                (5, 5),
                crop=(1, 1),
                use_bias=True,
                kernel_init=torch_default_uniform,
                dtype=self.dtype,
                name=f"up{level}",
            )(x)
            x = self._norm(f"up{level}_bn")(jax.nn.relu(x), train)

        mask = Mask(magnitude.shape[-1], self.dtype, name="mask")(x)
        return mask * magnitude

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(epsilon=_EPSILON, dtype=self.dtype, name=name)


class Down(nn.Module):
    """A 5x5 convolution that halves the image.

    Attributes:
      features: of the output.
      dtype: of the computation.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "b _ _ g"]:
        """Map (b, f, n, h) to (b, f / 2, n / 2, features)."""
        kernel = self.param("kernel", xavier_uniform, (5, 5, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return _convolve(x, kernel, (1, 2), stride=2) + bias


class Mask(nn.Module):
    """A 4x4 convolution of every second position, and its sigmoid, in float32.

    Attributes:
      features: of the output.
      dtype: of the convolution.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Map (b, f, n, h) to (b, f, n, features), each 0 to 1."""
        kernel = self.param("kernel", xavier_uniform, (4, 4, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jax.nn.sigmoid(_convolve(x, kernel, (3, 3), dilation=2).astype(jnp.float32) + bias)


def _convolve(x, kernel, padding: tuple[int, int], stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolve an image ``b f n h`` with a kernel (frequency, frame, in, out), alike along both axes."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
