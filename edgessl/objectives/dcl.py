"""DCL: SimCLR without the positive in the denominator (Yeh et al. 2022, arXiv 2110.06848)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, encode_pair, halves, mlp
from edgessl.objectives.functional import dcl_loss, normalize
from edgessl.objectives.moco import enqueue


@dataclass(frozen=True)
class DCL(Objective):
    """Decoupling is what makes contrast work in small batches, down to 2: one other sample, two negatives.

    `queue_size` above 0 adds slot `queue` `(queue_size, projection)`: projections of earlier batches (view a) as more
    negatives, without MoCo's teacher; they are a few steps old, so keep it to some ten batches.
    """

    hidden: int = 128
    projection: int = 64
    queue_size: int = 0
    name: ClassVar[str] = "dcl"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2}

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def slots(self, theta: Tensor) -> Slots:
        """Random unit keys, if there is a queue."""
        if self.queue_size == 0:
            return {}
        keys = torch.randn(self.queue_size, self.projection, dtype=theta.dtype)
        return {"queue": normalize(keys).to(theta.device)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """The decoupled loss of the projections; view a then enters the queue."""
        h = encode_pair(network, *batch.views)
        z_a, z_b = (gather(z) for z in halves(network("projector", h)))
        queue = slots.get("queue")
        value = dcl_loss(z_a, z_b, hyper["temperature"], queue)
        if queue is None:
            return Loss(value, h, {})
        return Loss(value, h, {"queue": enqueue(queue, normalize(z_a.detach()))})
