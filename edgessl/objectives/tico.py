"""TiCo: agree with a teacher, and avoid the directions that all samples take (Zhu et al. 2022, arXiv 2206.10698)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, centred_mlp, moving_average
from edgessl.objectives.functional import centred, tico_loss


@dataclass(frozen=True)
class TiCo(Objective):
    """Slots `teacher` (moving average of theta) and `covariance` `(projection, projection)`, a moving second moment.

    Projections are centred over the batch, where the authors' heads have batch norm: with layer norm alone it
    collapses. The moment remembers earlier batches as a queue would, so 4 samples do; of 2, centring would make
    opposites, whatever they show. One-sided, as in MoCo: the network sees view a, the teacher (with batch statistics,
    where it has batch norms) view b.
    """

    hidden: int = 128
    projection: int = 128
    name: ClassVar[str] = "tico"
    family: ClassVar[str] = "redundancy"
    hyper: ClassVar[dict[str, float]] = {"contrast": 8.0, "covariance_decay": 0.9, "teacher_decay": 0.99}
    min_batch: ClassVar[int] = 4

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": centred_mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def slots(self, theta: Tensor) -> Slots:
        """A copy of the network, and no directions yet."""
        covariance = torch.zeros(self.projection, self.projection, dtype=theta.dtype, device=theta.device)
        return {"teacher": theta.clone(), "covariance": covariance}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Both terms on view a's projections and the teacher's of view b."""
        a, b = batch.views
        h = network("encoder", a)
        z_a = centred(gather(network("projector", h)))
        teacher = network.at(slots["teacher"])
        z_b = centred(gather(teacher("projector", teacher("encoder", b)).detach()))
        value, covariance = tico_loss(z_a, z_b, slots["covariance"], hyper["contrast"], hyper["covariance_decay"])
        return Loss(value, h, {"covariance": covariance})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
