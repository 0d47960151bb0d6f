"""Prototypes: the last layer that SwAV and DINO score samples with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgessl.objectives.functional import normalize


class Prototypes(nn.Module):
    """Cosines of samples and `count` learned directions.

    Only the directions of the weights count: they are normalised in the forward pass, where SwAV's code rescales them
    in place after every step and DINO's uses weight normalisation with its gain fixed to 1.

    Args:
        dim: size of an embedding.
        count: number of prototypes.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def forward(self, z: Tensor) -> Tensor:
        """Maps embeddings (N, dim) of any length to cosines (N, count)."""
        return normalize(z) @ normalize(self.weight).T
