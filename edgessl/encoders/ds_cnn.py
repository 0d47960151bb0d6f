"""Depthwise-separable 2-D networks in three sizes, for images and spectrograms.

After MobileNet (Howard et al. 2017, https://arxiv.org/abs/1704.04861) and the keyword-spotting DS-CNN (Zhang
et al. 2017, https://arxiv.org/abs/1711.07128). Channels are multiples of 16, where onnxruntime's blocked
convolutions are fast.
"""

from __future__ import annotations

from torch import nn

from edgessl.encoders.base import Stages
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.pool import GlobalMean
from edgessl.errors import ConfigError

SMALL_SIDE = 20  # pixels; a stem of stride 2 would leave too little of anything smaller
BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1))  # (output channels in widths, stride)


def ds_cnn_s(input_shape: tuple[int, int, int], *, norm: str = "group", stem_stride: int | None = None) -> Stages:
    """16 to 128 channels, about 35 thousand parameters; see `_ds_cnn`."""
    return _ds_cnn(16, input_shape, norm, stem_stride)


def ds_cnn_m(input_shape: tuple[int, int, int], *, norm: str = "group", stem_stride: int | None = None) -> Stages:
    """32 to 256 channels, about 130 thousand parameters; see `_ds_cnn`."""
    return _ds_cnn(32, input_shape, norm, stem_stride)


def ds_cnn_l(input_shape: tuple[int, int, int], *, norm: str = "group", stem_stride: int | None = None) -> Stages:
    """64 to 512 channels, about 520 thousand parameters; see `_ds_cnn`."""
    return _ds_cnn(64, input_shape, norm, stem_stride)


def _ds_cnn(width: int, input_shape: tuple[int, int, int], norm: str, stem_stride: int | None) -> Stages:
    """Stages stem, block1 ... block5, pool for samples (C, H, W); the embedding has 8 widths.

    `stem_stride` is 1 or 2; None takes 1 if the shorter side has at most 20 pixels, else 2.
    """
    channels, height, breadth = input_shape
    if stem_stride is None:
        stem_stride = 1 if min(height, breadth) <= SMALL_SIDE else 2
    if stem_stride not in (1, 2):
        raise ConfigError(f"ds_cnn stem_stride: expected 1 or 2, found {stem_stride!r}")
    stem = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
    stages: dict[str, nn.Module] = {"stem": ConvNorm(stem, norm)}
    channels = width
    for number, (multiple, stride) in enumerate(BLOCKS, start=1):
        stages[f"block{number}"] = _separable_block(channels, multiple * width, stride, norm)
        channels = multiple * width
    stages["pool"] = GlobalMean()
    return stages


def _separable_block(channels_in: int, channels_out: int, stride: int, norm: str) -> nn.Sequential:
    block = nn.Sequential()
    depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False)
    block.add_module("depthwise", ConvNorm(depthwise, norm))
    block.add_module("pointwise", ConvNorm(nn.Conv2d(channels_in, channels_out, 1, bias=False), norm))
    return block
