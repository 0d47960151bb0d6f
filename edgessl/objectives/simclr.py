"""SimCLR: agree with your other view, differ from everybody else's (Chen et al. 2020, arXiv 2002.05709)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.objectives.base import Gather, Loss, Network, Objective, Slots, encode_pair, halves, mlp
from edgessl.objectives.functional import nt_xent_loss


@dataclass(frozen=True)
class SimCLR(Objective):
    """NT-Xent on projected embeddings. No slots."""

    hidden: int = 128
    projection: int = 64
    name: ClassVar[str] = "simclr"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2}

    def heads(self, embedding_dim: int, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": mlp((embedding_dim, self.hidden, self.projection), norm)}

    def loss(self, network: Network, slots: Slots, a: Tensor, b: Tensor, hyper: Slots, gather: Gather) -> Loss:
        """NT-Xent of the projections."""
        h = encode_pair(network, a, b)
        z_a, z_b = halves(network("projector", h))
        return Loss(nt_xent_loss(gather(z_a), gather(z_b), hyper["temperature"]), h, {})
