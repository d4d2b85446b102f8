"""The residual U-Net on spectrograms: magnitude in, maps out.

Kong et al., ISMIR 2021 (ResUNetDecouple+), figure 2; Liu et al., MDX workshop 2021 (CWS-PResUNet), figure 2. Blocks of
equal width in a row are one block scanned over stacked weights, so that the compiler reads each level once.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmss.config import ResUNetConfig
from jaxmss.models.devices import MEAN
from jaxmss.models.layers import (
    CONVOLUTION,
    BatchNorm,
    Conv,
    Upsample,
    average_pool,
    leaky_relu,
    torch_default_uniform,
    xavier_uniform,
)
from jaxmss.typing import Array, DTypeLike, Float

Image = Float[Array, "b f n _"]  # channels-last
FrameMask = Float[Array, "#b 1 n 1"]  # 1 where a frame exists, 0 where an example is shorter than the batch


class ResidualBlock(nn.Module):
    """Two pre-activated 3x3 convolutions plus the input, through a 1x1 convolution where the widths differ.

    Attributes:
      features: of the output.
      config: of the network.
      dtype: of the computation.
      train: whether norms use the statistics of the batch.
    """

    features: int
    config: ResUNetConfig
    dtype: DTypeLike
    train: bool

    @nn.compact
    def __call__(self, x: Image, existing: FrameMask) -> Image:
        """Apply the block; frames that do not exist stay zero before each 3x3 convolution."""
        norm = partial(BatchNorm, momentum=self.config.block_norm_momentum, dtype=self.dtype)
        conv = partial(Conv, self.features, dtype=self.dtype)
        y = leaky_relu(norm(name="bn1")(x, self.train)) * existing
        y = conv(name="conv1")(y)
        y = leaky_relu(norm(absolute_gain=self.config.absolute_gain, name="bn2")(y, self.train)) * existing
        y = conv(name="conv2")(y)
        if x.shape[-1] != self.features:
            x = conv(size=1, use_bias=True, name="shortcut")(x)
        return x + y


class MobileNetBlock(nn.Module):
    """Two residual steps of a pre-activated depthwise separable convolution; attributes as in `ResidualBlock`."""

    features: int
    config: ResUNetConfig
    dtype: DTypeLike
    train: bool

    @nn.compact
    def __call__(self, x: Image, existing: FrameMask) -> Image:
        """Apply the block; frames that do not exist stay zero before each 3x3 convolution."""
        norm = partial(BatchNorm, momentum=self.config.block_norm_momentum, dtype=self.dtype)
        conv = partial(Conv, self.features, dtype=self.dtype)
        for step in "12":
            y = conv(size=1, name=f"conv{step}a")(leaky_relu(norm(name=f"bn{step}a")(x, self.train)))
            y = leaky_relu(norm(name=f"bn{step}b")(y, self.train)) * existing
            y = conv(depthwise=True, name=f"conv{step}b")(y)
            y = conv(size=1, name=f"conv{step}c")(leaky_relu(norm(name=f"bn{step}c")(y, self.train)))
            if x.shape[-1] != self.features:
                x = conv(size=1, use_bias=True, name="shortcut")(x)
            x = x + y
        return x


class Blocks(nn.Module):
    """`count` blocks of `features` in a row; the first alone where it changes the width, the others scanned.

    Attributes:
      count: number of blocks.
      features: of every block's output.
      config: of the network.
      dtype: of the computation.
      train: whether norms use the statistics of the batch.
      remat: whether the backward pass computes convolutions inside of each block again instead of storing them.
    """

    count: int
    features: int
    config: ResUNetConfig
    dtype: DTypeLike
    train: bool
    remat: bool

    @nn.compact
    def __call__(self, x: Image, existing: FrameMask) -> Image:
        """Apply all blocks."""
        block = ResidualBlock if self.config.block == "residual" else MobileNetBlock
        # norms and activations, of which each would keep several images, cost less to compute again than to store
        kept = (MEAN,) if self.remat else (MEAN, CONVOLUTION)
        block = nn.remat(block, policy=jax.checkpoint_policies.save_only_these_names(*kept))
        make = partial(block, self.features, self.config, self.dtype, self.train)
        rest = self.count
        if x.shape[-1] != self.features:
            x = make(name="first")(x, existing)
            rest -= 1
        if rest:
            scan = nn.scan(
                lambda block, x, existing: (block(x, existing), None),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=rest,
            )
            x, _ = scan(make(name="rest"), x, existing)
        return x


class Decoder(nn.Module):
    """One decoder level: enlarge, concatenate the skip, blocks. Attributes as in `Blocks`, and the pooling to undo."""

    factors: tuple[int, int]
    features: int
    config: ResUNetConfig
    dtype: DTypeLike
    train: bool
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b _ _ _"], skip: Image, existing: FrameMask) -> Image:
        """Bring `x` to the size of `skip` and apply the blocks to both."""
        config = self.config
        x = BatchNorm(momentum=config.decoder_norm_momentum, dtype=self.dtype, name="bn1")(x, self.train)
        if config.upsampling == "nearest":
            # the 1x1 convolution commutes with the repetition, and is cheaper before it
            x = Conv(self.features, size=1, dtype=self.dtype, name="conv1")(leaky_relu(x))
            x = x.repeat(self.factors[0], axis=1).repeat(self.factors[1], axis=2)
        else:
            stride2 = config.upsampling == "stride2"
            x = Upsample(
                self.features,
                self.factors,
                size=(3, 3) if stride2 else self.factors,
                kernel_init=torch_default_uniform if stride2 else xavier_uniform,
                dtype=self.dtype,
                name="conv1",
            )(nn.relu(x))
        x = jnp.concatenate([x, skip], axis=-1)
        return Blocks(config.blocks, self.features, config, self.dtype, self.train, self.remat, name="blocks")(
            x, existing
        )


class ResUNet(nn.Module):
    """Encoder, bottleneck, decoder and heads: magnitudes ``b f n c*s`` to maps ``b f n j*4*c*s``.

    Attributes:
      config: of the network.
      dtype: of the computation, float32 or bfloat16; parameters, statistics and maps are float32 always.
      remat: whether to trade computation for memory in the backward pass.
    """

    config: ResUNetConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        magnitude: Float[Array, "b f n h"],
        existing: Float[Array, "#b n"],
        sources: tuple[str, ...],
        train: bool,
    ) -> Float[Array, "b f n maps"]:
        """Return the maps of `sources`; `existing` is 1 for frames that exist and 0 for others."""
        config = self.config
        levels = len(config.widths)
        context = (config, self.dtype, train, self.remat)
        poolings = [(2, 2)] * (levels - 1) + [config.last_pooling[::-1]]  # (bins, frames)

        frames = magnitude.shape[2]
        x = BatchNorm(axis=1, name="bn0")(magnitude, train)
        x = x * existing[:, None, :, None]
        x = jnp.pad(x[:, :-1], [(0, 0), (0, 0), (0, -frames % config.frame_multiple), (0, 0)]).astype(self.dtype)
        masks = self._masks(existing, x.shape[2])

        skips = []
        for level, (width, pooling) in enumerate(zip(config.widths, poolings, strict=True)):
            x = Blocks(config.blocks, width, *context, name=f"encoder{level + 1}")(x, masks[level])
            skips.append(x)
            x = average_pool(x, *pooling)

        bottleneck = config.bottleneck_levels * config.blocks
        x = Blocks(bottleneck, config.widths[-1], *context, name="bottleneck")(x, masks[-1])

        for level in reversed(range(levels)):
            name = f"decoder{levels - level}"
            x = Decoder(poolings[level], config.widths[level], *context, name=name)(x, skips.pop(), masks[level])

        maps = []
        for head in sources if config.separate_heads else ("shared",):
            y = Blocks(config.head_blocks, config.widths[0], *context, name=f"head_{head}")(x, masks[0])
            outputs = 4 * config.channels * config.subbands * (1 if config.separate_heads else len(config.sources))
            # in bfloat16 both phase maps of a bin are exactly 0 now and then, where their angle has a gradient of 1e10
            y = Conv(outputs, size=1, use_bias=True, name=f"maps_{head}")(y.astype(jnp.float32))
            maps.append(y[:, :, :frames])
        # zeros silence the last bin, which no level saw
        return jnp.pad(jnp.concatenate(maps, axis=-1), [(0, 0), (0, 1), (0, 0), (0, 0)])

    def _masks(self, existing: Float[Array, "#b n"], frames: int) -> list[Float[Array, "#b 1 _ 1"]]:
        """Return, for each level and the bottleneck, which frames exist, counting the padding to whole poolings."""
        multiple = self.config.frame_multiple
        counts = -(-existing.sum(-1, keepdims=True) // multiple) * multiple
        mask = (jnp.arange(frames) < counts).astype(self.dtype)[:, None, :, None]
        strides = [2**level for level in range(len(self.config.widths))]
        return [mask[:, :, ::stride] for stride in (*strides, multiple)]
