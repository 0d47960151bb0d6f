"""Barlow Twins: the views' cross-correlation should be the identity (Zbontar et al. 2021, arXiv 2103.03230)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, centred_mlp, encode_pair, halves
from edgessl.objectives.functional import barlow_twins_loss


@dataclass(frozen=True)
class BarlowTwins(Objective):
    """No negatives, no teacher, no slots.

    The correlation is estimated from the batch: among N samples, unrelated features correlate by 1/sqrt(N - 1), 0.38 at
    the smallest batch taken, 8 (at 2, every correlation is 1 or -1), and the loss would fight that noise.
    """

    hidden: int = 128
    projection: int = 128
    name: ClassVar[str] = "barlow_twins"
    family: ClassVar[str] = "redundancy"
    hyper: ClassVar[dict[str, float]] = {"redundancy": 5e-3}
    min_batch: ClassVar[int] = 8

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A three-layer projector."""
        return {"projector": centred_mlp((encoder.embedding_dim, self.hidden, self.hidden, self.projection), norm)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Both terms on the joined batch's projections: a correlation of part of the batch is another one."""
        h = encode_pair(network, *batch.views)
        z_a, z_b = halves(network("projector", h))
        return Loss(barlow_twins_loss(gather(z_a), gather(z_b), hyper["redundancy"]), h, {})
