"""MoCo v3: a momentum teacher's keys of the same batch as negatives (Chen, Xie & He 2021, arXiv 2104.02057)."""

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
from edgessl.objectives.functional import centred, in_batch_nce_loss


@dataclass(frozen=True)
class MoCoV3(Objective):
    """Slot `teacher`: the moving average of theta; with batch norm it uses batch statistics, as the authors' does.

    Queries and keys are centred over the batch, as by the batch norm that ends the authors' heads.
    No queue, so the batch holds all negatives: 4 samples give three of them, and fewer hardly a contrast. In small
    batches "moco", whose queue does not depend on the batch, or "dcl" is the better choice.
    """

    hidden: int = 128
    projection: int = 64
    name: ClassVar[str] = "mocov3"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2, "teacher_decay": 0.99}
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
        """InfoNCE of each view's queries and the other view's keys, summed, times `2 * temperature` (algorithm 1),
        which keeps the gradient's size when the temperature is turned."""
        h = encode_pair(network, *batch.views)
        q_a, q_b = (centred(gather(q)) for q in halves(network("predictor", network("projector", h))))
        teacher = network.at(slots["teacher"])
        k_a, k_b = (
            centred(gather(k)) for k in halves(teacher("projector", encode_pair(teacher, *batch.views)).detach())
        )
        temperature = hyper["temperature"]
        cross = in_batch_nce_loss(q_a, k_b, temperature) + in_batch_nce_loss(q_b, k_a, temperature)
        return Loss(2.0 * temperature * cross, h, {})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
