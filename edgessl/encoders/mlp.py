"""A residual multilayer perceptron for samples that are vectors of features, such as the readings of a sensor array.

Pre-norm residual layers as in the ResNet of Gorishniy et al. 2021, https://arxiv.org/abs/2106.11959, who find them hard
to beat on tables.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Stages

WIDTH = 128


class ResidualLayer(nn.Module):
    """x + Linear(ReLU(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, width) to (N, width)."""
        out: Tensor = x + self.linear(F.relu(self.norm(x)))
        return out


def mlp(input_shape: tuple[int], *, width: int = WIDTH) -> Stages:
    """Stages stem, block1, block2, pool for samples (n,); embedding `width`."""
    return {
        "stem": nn.Linear(input_shape[0], width),
        "block1": ResidualLayer(width),
        "block2": ResidualLayer(width),
        "pool": nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)),
    }
