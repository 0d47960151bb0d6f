"""BYOL: predict a slowly moving teacher's view of the same sample (Grill et al. 2020, arXiv 2006.07733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    moving_average,
)
from edgessl.objectives.functional import centred, negative_cosine_loss


@dataclass(frozen=True)
class BYOL(Objective):
    """Slot `teacher`: the moving average of theta. With batch norm the teacher uses batch statistics, as BYOL does.

    Predictions and targets are centred over the batch, so that a teacher whose embeddings all point one way (an
    untrained one) is nothing to agree with. Two centred samples are each other's opposites, whatever they show, so 4
    are the least.
    """

    hidden: int = 128
    projection: int = 64
    name: ClassVar[str] = "byol"
    family: ClassVar[str] = "distillation"
    hyper: ClassVar[dict[str, float]] = {"teacher_decay": 0.99}
    min_batch: ClassVar[int] = 4

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """Projector and predictor, two layers each."""
        return {
            "projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm),
            "predictor": centred_mlp((self.projection, self.hidden, self.projection), norm),
        }

    def slots(self, theta: Tensor) -> Slots:
        """The teacher starts as a copy of the network."""
        return {"teacher": theta.clone()}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """`2 - 2 cos`, averaged over the two directions."""
        h = encode_pair(network, *batch.views)
        p_a, p_b = (centred(gather(p)) for p in halves(network("predictor", network("projector", h))))
        teacher = network.at(slots["teacher"])
        t_a, t_b = (
            centred(gather(t)) for t in halves(teacher("projector", encode_pair(teacher, *batch.views)).detach())
        )
        cross = negative_cosine_loss(p_a, t_b) + negative_cosine_loss(p_b, t_a)
        return Loss(2.0 + cross, h, {})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
