"""NNCLR: the positive is the nearest neighbour among earlier samples (Dwibedi et al. 2021, arXiv 2104.14548)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

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
from edgessl.objectives.functional import centred, in_batch_nce_loss, normalize
from edgessl.objectives.moco import enqueue


@dataclass(frozen=True)
class NNCLR(Objective):
    """Slot `queue` `(queue_size, projection)`: unit projections of view a of earlier batches, newest first.

    Projections and predictions are centred over the batch, as by the batch norm that ends the authors' heads: else all
    samples of an untrained network have the same neighbour, and the loss never leaves the logarithm of N.
    Positives come from the queue, negatives from the batch: 4 samples give three of them, and fewer hardly a contrast.
    The queue should hold some neighbours of every kind of sample; the paper's 98304 is for a thousand classes.
    """

    hidden: int = 128
    projection: int = 64
    queue_size: int = 1024
    name: ClassVar[str] = "nnclr"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.1}
    min_batch: ClassVar[int] = 4

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """Projector and predictor, two layers each."""
        return {
            "projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm),
            "predictor": centred_mlp((self.projection, self.hidden, self.projection), norm),
        }

    def slots(self, theta: Tensor) -> Slots:
        """Random unit keys."""
        keys = torch.randn(self.queue_size, self.projection, dtype=theta.dtype)
        return {"queue": normalize(keys).to(theta.device)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """InfoNCE of each view's neighbours and the other view's predictions, averaged; view a enters the queue."""
        h = encode_pair(network, *batch.views)
        z = network("projector", h)
        p_a, p_b = (centred(gather(p)) for p in halves(network("predictor", z)))
        z_a, z_b = (normalize(centred(gather(view))) for view in halves(z.detach()))
        queue, temperature = slots["queue"], hyper["temperature"]
        value = in_batch_nce_loss(neighbours(z_a, queue), p_b, temperature)
        value = value + in_batch_nce_loss(neighbours(z_b, queue), p_a, temperature)
        return Loss(0.5 * value, h, {"queue": enqueue(queue, z_a)})


def neighbours(z: Tensor, queue: Tensor) -> Tensor:
    """The row of `queue` `(K, D)` nearest to each row of `z` `(N, D)`, unit rows all: `(N, D)`."""
    return queue.index_select(0, (z @ queue.T).argmax(dim=1))
