"""Prototypes: the last layer that SwAV and DINO score samples with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgessl.objectives.base import Gather, Network
from edgessl.objectives.functional import centred, normalize


class Prototypes(nn.Module):
    """Products of embeddings and `count` learned directions.

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
        """Maps embeddings (N, dim) to their products with the prototypes, (N, count): cosines, for unit rows."""
        return z @ normalize(self.weight).T


def view_scores(network: Network, z: Tensor, views: int, gather: Gather) -> list[Tensor]:
    """Cosines `(N, count)` of the joined batch's centred embeddings and the prototypes, one per view.

    Args:
        network: holds "prototypes".
        z: projections `(views * n, dim)` of this process, view by view.
        views: how many there are.
        gather: joins rows; products and lengths are centred and divided behind it, so that the prototypes' gradient is
            that of this process's rows and the mean is the whole batch's.
    """
    products = network("prototypes", z)
    scores = []
    for product, view in zip(products.chunk(views), z.chunk(views), strict=True):
        length = torch.sqrt(centred(gather(view)).square().sum(dim=1, keepdim=True) + 1e-16)
        scores.append(centred(gather(product)) / length)
    return scores
