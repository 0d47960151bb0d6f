"""VICReg: variance, invariance, covariance (Bardes, Ponce & LeCun 2022, arXiv 2105.04906)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, encode_pair, halves, mlp
from edgessl.objectives.functional import vicreg_loss


@dataclass(frozen=True)
class VICReg(Objective):
    """No negatives, no teacher, no slots; the statistics of the batch hold the embedding open.

    Variances and covariances of N samples are off by about sqrt(2 / N) of themselves: 4 are the least, 32 and more make
    them worth following. Where memory is short, the recipe's `chunk` makes the batch large and the passes small.
    """

    hidden: int = 128
    projection: int = 128
    name: ClassVar[str] = "vicreg"
    family: ClassVar[str] = "redundancy"
    min_batch: ClassVar[int] = 4
    hyper: ClassVar[dict[str, float]] = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer expander."""
        return {"projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """The three terms on the expanded embeddings."""
        h = encode_pair(network, *batch.views)
        z_a, z_b = halves(network("projector", h))
        value = vicreg_loss(gather(z_a), gather(z_b), hyper["invariance"], hyper["variance"], hyper["covariance"])
        return Loss(value, h, {})
