"""The network of the twins: the magnitude of all subbands in, the maps of all sources out."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import Architecture
from .blocks import Level, MobileBlock, UpLevel, conv1x1, norm

MAPS = 4


class Network(nn.Module):
    """Encoder, bottleneck, decoder and heads. The attribute names are those of the published state_dicts."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.arch = arch
        widths, depth = arch.widths, len(arch.widths)
        self.pools = [(2, 2)] * (depth - 1) + [arch.last_pool]
        self.bn0 = norm(arch.n_fft // 2 + 1)

        inputs = arch.channels * arch.subbands
        self.encoder, self.bottleneck, self.decoder = [], [], []
        for i, width in enumerate(widths):
            self._add(self.encoder, f"encoder_block{i + 1}", self._encoder_level(inputs, width))
            inputs = width
        for i in range(arch.bottleneck_levels):
            name = f"conv_block{depth + 1}{'abcdefgh'[i]}" if arch.lettered_bottleneck else f"conv_block{depth + 1 + i}"
            self._add(self.bottleneck, name, self._level(inputs, inputs, arch.blocks))
        for i, (width, pool) in enumerate(zip(reversed(widths), reversed(self.pools), strict=True)):
            self._add(self.decoder, f"decoder_block{i + 1}", UpLevel(arch, inputs, width, pool))
            inputs = width

        self.heads = []
        maps = MAPS * arch.channels * arch.subbands
        if arch.head_per_source:
            for source in arch.sources:
                head = nn.Sequential(self._level(inputs, inputs, arch.head_blocks), conv1x1(inputs, maps, bias=True))
                self._add(self.heads, f"{source}_blocks", head)
        else:
            self.after_conv_block1 = self._level(inputs, inputs, arch.head_blocks)
            self.after_conv2 = conv1x1(inputs, len(arch.sources) * maps, bias=True)
        self._initialise()

    def maps(self, magnitude: Tensor) -> Tensor:
        """Magnitude (b, c * s, n, f) -> maps (b, j * m * c * s, n, f), in the published order of the channels."""
        frames, bins = magnitude.shape[2:]
        x = self.bn0(magnitude.transpose(1, 3)).transpose(1, 3)
        multiple = 2 ** (len(self.pools) - 1) * self.pools[-1][0]
        x = F.pad(x, (0, 0, 0, -frames % multiple))[..., : bins - 1]

        skips = []
        for name, pool in zip(self.encoder, self.pools, strict=True):
            skips.append(getattr(self, name)(x))
            x = F.avg_pool2d(skips[-1], pool)
        for name in self.bottleneck:
            x = getattr(self, name)(x)
        for name in self.decoder:
            x = getattr(self, name)(x, skips.pop())
        if self.arch.head_per_source:
            x = torch.cat([getattr(self, name)(x) for name in self.heads], dim=1)
        else:
            x = self.after_conv2(self.after_conv_block1(x))
        return F.pad(x, (0, 1))[:, :, :frames]

    def _add(self, group: list[str], name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        group.append(name)

    def _level(self, inputs: int, outputs: int, blocks: int) -> nn.Module:
        mobile = self.arch.block == "mobile"  # published without a level around the block
        return MobileBlock(inputs, outputs) if mobile else Level(self.arch.block, inputs, outputs, blocks)

    def _encoder_level(self, inputs: int, outputs: int) -> nn.Module:
        if self.arch.block == "mobile":
            return nn.Sequential(OrderedDict(conv_block=MobileBlock(inputs, outputs)))
        return Level(self.arch.block, inputs, outputs, self.arch.blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) or (
                isinstance(module, nn.ConvTranspose2d) and self.arch.upsampling == "stride"
            ):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
