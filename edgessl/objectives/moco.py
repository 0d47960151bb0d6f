"""MoCo v2: a queue of a momentum teacher's keys as negatives (He et al. 2020, arXiv 1911.05722 and 2003.04297)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, mlp, moving_average
from edgessl.objectives.functional import info_nce_loss, normalize


@dataclass(frozen=True)
class MoCo(Objective):
    """Slots `teacher` (moving average of theta) and `queue` `(queue_size, projection)` of unit-length keys.

    The queue is kept in order of age, newest first, so it wraps at any batch size without a pointer. It, not the batch,
    holds the negatives, so any batch does (2, which batch norm needs); keys are some queue_size / batch steps old.
    """

    hidden: int = 128
    projection: int = 64
    queue_size: int = 512
    name: ClassVar[str] = "moco"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2, "teacher_decay": 0.99}

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def slots(self, theta: Tensor) -> Slots:
        """A copy of the network, and random unit keys."""
        keys = torch.randn(self.queue_size, self.projection, dtype=theta.dtype)
        return {"teacher": theta.clone(), "queue": normalize(keys).to(theta.device)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """InfoNCE of view a's query against view b's key and the queue; the keys then enter the queue."""
        a, b = batch.views
        h = network("encoder", a)
        q = gather(network("projector", h))
        teacher = network.at(slots["teacher"])
        k = gather(teacher("projector", teacher("encoder", b)).detach())
        value = info_nce_loss(q, k, slots["queue"], hyper["temperature"])
        return Loss(value, h, {"queue": enqueue(slots["queue"], normalize(k))})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}


def enqueue(queue: Tensor, keys: Tensor) -> Tensor:
    """Put `keys` `(N, D)` in front of `queue` `(K, D)` and drop the oldest, whatever N is to K."""
    return torch.cat([keys, queue])[: queue.shape[0]]
