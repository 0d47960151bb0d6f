"""SimSiam: predict your other view, with no teacher and no negatives (Chen & He 2021, arXiv 2011.10566)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import (
    Batch,
    Gather,
    Loss,
    Network,
    Objective,
    Slots,
    centred_mlp,
    encode_pair,
    halves,
    mlp,
)
from edgessl.objectives.functional import negative_cosine_loss, standardized


@dataclass(frozen=True)
class SimSiam(Objective):
    """BYOL without the teacher: the stopped gradient alone keeps it from collapsing. No slots: the smallest memory.

    Predictions and targets are standardised over the batch, as by the batch norm that the authors end their projector
    with and could not do without (section 4.4). Of 2 samples, every standardised value is 1 or -1, whatever they show:
    4 are the least.
    """

    hidden: int = 128
    projection: int = 64
    bottleneck: int = 16
    name: ClassVar[str] = "simsiam"
    family: ClassVar[str] = "distillation"
    hyper: ClassVar[dict[str, float]] = {}
    min_batch: ClassVar[int] = 4

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A three-layer projector, and a predictor with a bottleneck a quarter as wide."""
        return {
            "projector": mlp((encoder.embedding_dim, self.hidden, self.hidden, self.projection), norm),
            "predictor": centred_mlp((self.projection, self.bottleneck, self.projection), norm),
        }

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Negative cosine, averaged over the two directions; in [-1, 1]."""
        h = encode_pair(network, *batch.views)
        z = network("projector", h)
        z_a, z_b = (standardized(gather(view)) for view in halves(z.detach()))
        p_a, p_b = (standardized(gather(view)) for view in halves(network("predictor", z)))
        cross = negative_cosine_loss(p_a, z_b) + negative_cosine_loss(p_b, z_a)
        return Loss(0.5 * cross, h, {})
