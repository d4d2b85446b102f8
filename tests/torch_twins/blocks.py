"""The residual blocks and levels of the twins. Images are (b, h, time, frequency)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import Architecture

SLOPE = 0.01


def norm(features: int, momentum: float = 0.01) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, momentum=momentum)


def conv3x3(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, groups=groups)


def conv1x1(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def shortcut(inputs: int, outputs: int) -> nn.Module:
    return conv1x1(inputs, outputs, bias=True) if inputs != outputs else nn.Identity()


class ActivatedNorm(nn.BatchNorm2d):
    """In-place activated batch norm: its gain is `|weight| + eps`, and the leaky ReLU is its own."""

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.abs() + self.eps
        x = F.batch_norm(
            x, self.running_mean, self.running_var, gain, self.bias, self.training, self.momentum, self.eps
        )
        return F.leaky_relu(x, SLOPE)


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs)
        self.bn1 = norm(inputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = norm(outputs)
        self.shortcut = shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.bn1(x), SLOPE))
        return self.shortcut(x) + self.conv2(F.leaky_relu(self.bn2(y), SLOPE))


class AbnBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.bn1 = norm(inputs)
        self.abn2 = ActivatedNorm(outputs, momentum=0.01)
        self.conv1 = conv3x3(inputs, outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.bn1(x), SLOPE))
        return self.shortcut(x) + self.conv2(self.abn2(y))


class MobileBlock(nn.Module):
    """Two residual steps, each: 1x1 (a), 3x3 depthwise (b), 1x1 (c), every one behind a norm and a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        for step, entering in (("1", inputs), ("2", outputs)):
            setattr(self, f"conv{step}a", conv1x1(entering, outputs))
            setattr(self, f"conv{step}b", conv3x3(outputs, outputs, groups=outputs))
            setattr(self, f"conv{step}c", conv1x1(outputs, outputs))
            setattr(self, f"bn{step}a", norm(entering, momentum=0.1))
            setattr(self, f"bn{step}b", norm(outputs, momentum=0.1))
            setattr(self, f"bn{step}c", norm(outputs, momentum=0.1))
        self.shortcut = shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shortcut(x) + self._step("1", x)
        return x + self._step("2", x)

    def _step(self, step: str, x: Tensor) -> Tensor:
        for part in "abc":
            x = getattr(self, f"conv{step}{part}")(F.leaky_relu(getattr(self, f"bn{step}{part}")(x), SLOPE))
        return x


BLOCKS = {"plain": PlainBlock, "abn": AbnBlock, "mobile": MobileBlock}


class Level(nn.Sequential):
    """Blocks in a row, named `conv_block<first>`, `conv_block<first + 1>`, ..."""

    def __init__(self, kind: str, inputs: int, outputs: int, blocks: int, first: int = 1):
        super().__init__()
        for i in range(blocks):
            self.add_module(f"conv_block{first + i}", BLOCKS[kind](inputs if i == 0 else outputs, outputs))


class UpLevel(nn.Module):
    """Norm, activation and up-sampling, then the blocks on [up-sampled, skip]."""

    def __init__(self, arch: Architecture, inputs: int, outputs: int, scale: tuple[int, int]):
        super().__init__()
        self.upsampling, self.scale = arch.upsampling, scale
        if arch.upsampling == "nearest":
            self.conv1 = conv1x1(inputs, outputs)
        elif arch.upsampling == "stride":
            self.conv1 = nn.ConvTranspose2d(inputs, outputs, scale, stride=scale, bias=False)
        else:
            self.conv1 = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, bias=False)
        self.bn1 = norm(inputs, arch.decoder_momentum)
        for name, block in Level(arch.block, 2 * outputs, outputs, arch.blocks, first=2).named_children():
            self.add_module(name, block)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.bn1(x)
        if self.upsampling == "nearest":
            x = self.conv1(F.leaky_relu(F.interpolate(x, scale_factor=self.scale, mode="nearest"), SLOPE))
        else:
            x = self.conv1(F.relu(x))
        if self.upsampling == "crop":
            x = x[:, :, :-1, :-1]
        x = torch.cat([x, skip], dim=1)
        for name, block in self.named_children():
            if name.startswith("conv_block"):
                x = block(x)
        return x
