"""A plain 1-D convolutional network for windows of sensor channels or raw audio.

The fully convolutional baseline of Wang et al. 2016, https://arxiv.org/abs/1611.06455, with strides, so that
its cost falls along the way.
"""

from __future__ import annotations

from torch import nn

from edgessl.encoders.base import Stages
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.pool import GlobalMean

LAYERS = (("stem", 32, 7), ("block1", 64, 5), ("block2", 64, 5), ("block3", 128, 5))  # name, channels, kernel


def cnn1d(input_shape: tuple[int, int], *, norm: str = "group") -> Stages:
    """Stages stem, block1 ... block3, pool for samples (C, T); each halves T; embedding 128."""
    channels = input_shape[0]
    stages: dict[str, nn.Module] = {}
    for name, channels_out, kernel in LAYERS:
        conv = nn.Conv1d(channels, channels_out, kernel, stride=2, padding=kernel // 2, bias=False)
        stages[name] = ConvNorm(conv, norm)
        channels = channels_out
    stages["pool"] = GlobalMean()
    return stages
