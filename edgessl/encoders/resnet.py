"""Residual networks for images and spectrograms: ResNet-8 for devices, ResNet-18 as the large reference.

He et al. 2015, https://arxiv.org/abs/1512.03385; ResNet-8 has the layers of MLPerf Tiny's image classifier
(Banbury et al. 2021, https://arxiv.org/abs/2106.07597), with a norm on its 1x1 shortcuts as well.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Stages
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.pool import GlobalMean


class BasicBlock(nn.Module):
    """`relu(conv3x3(relu(conv3x3(x))) + x)`, norms after the convolutions.

    `stride` reduces height and breadth; the shortcut is a 1x1 convolution where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: str) -> None:
        super().__init__()
        conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.conv1 = ConvNorm(conv1, norm)
        self.conv2 = ConvNorm(conv2, norm, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = ConvNorm(projection, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels_in, H, W) to (N, channels_out, ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


def resnet8(input_shape: tuple[int, int, int], *, norm: str = "group") -> Stages:
    """Stages stem, block1 ... block3 (16, 32, 64 channels), pool for samples (C, H, W); embedding 64."""
    return _resnet(input_shape[0], [(16, 1), (32, 2), (64, 2)], norm)


def resnet18(input_shape: tuple[int, int, int], *, norm: str = "group") -> Stages:
    """Stages stem (3x3, for small images), block1 ... block8 (64 to 512 channels), pool; embedding 512."""
    blocks = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
    return _resnet(input_shape[0], blocks, norm)


def _resnet(channels: int, blocks: list[tuple[int, int]], norm: str) -> Stages:
    width = blocks[0][0]
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    stages: dict[str, nn.Module] = {"stem": ConvNorm(stem, norm)}
    channels = width
    for number, (channels_out, stride) in enumerate(blocks, start=1):
        stages[f"block{number}"] = BasicBlock(channels, channels_out, stride, norm)
        channels = channels_out
    stages["pool"] = GlobalMean()
    return stages
