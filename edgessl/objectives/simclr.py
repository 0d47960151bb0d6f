"""SimCLR: agree with your other view, differ from everybody else's (Chen et al. 2020, arXiv 2002.05709)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, encode_pair, halves, mlp
from edgessl.objectives.functional import nt_xent_loss


@dataclass(frozen=True)
class SimCLR(Objective):
    """NT-Xent on projected embeddings. No slots.

    The negatives are the other samples of the batch, both views of each: a batch of 2 gives two, and every doubling
    helps (section 5.2 of the paper). In small batches "dcl", or "moco" with its queue, gets more out of them.
    """

    hidden: int = 128
    projection: int = 64
    name: ClassVar[str] = "simclr"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2}

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """NT-Xent of the projections."""
        h = encode_pair(network, *batch.views)
        z_a, z_b = halves(network("projector", h))
        return Loss(nt_xent_loss(gather(z_a), gather(z_b), hyper["temperature"]), h, {})
