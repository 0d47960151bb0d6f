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
    encode_pair,
    halves,
    mlp,
    moving_average,
)
from edgessl.objectives.functional import negative_cosine_loss


@dataclass(frozen=True)
class BYOL(Objective):
    """Slot `teacher`: the moving average of theta. With batch norm the teacher uses batch statistics, as BYOL does."""

    hidden: int = 128
    projection: int = 64
    name: ClassVar[str] = "byol"
    family: ClassVar[str] = "distillation"
    hyper: ClassVar[dict[str, float]] = {"teacher_decay": 0.99}

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """Projector and predictor, two layers each."""
        return {
            "projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm),
            "predictor": mlp((self.projection, self.hidden, self.projection), norm),
        }

    def slots(self, theta: Tensor) -> Slots:
        """The teacher starts as a copy of the network."""
        return {"teacher": theta.clone()}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """`2 - 2 cos`, averaged over the two directions."""
        h = encode_pair(network, *batch.views)
        p_a, p_b = halves(network("predictor", network("projector", h)))
        teacher = network.at(slots["teacher"])
        t_a, t_b = halves(teacher("projector", encode_pair(teacher, *batch.views)).detach())
        cross = negative_cosine_loss(gather(p_a), gather(t_b)) + negative_cosine_loss(gather(p_b), gather(t_a))
        return Loss(2.0 + cross, h, {})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
