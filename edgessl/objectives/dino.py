"""DINO: a teacher's centred and sharpened scores, from global views to all (Caron et al. 2021, arXiv 2104.14294)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, centred_mlp, moving_average
from edgessl.objectives.functional import dino_loss
from edgessl.objectives.prototypes import Prototypes, view_scores


@dataclass(frozen=True)
class DINO(Objective):
    """Slots `teacher` (moving average of theta) and `centre` `(prototypes,)` (moving average of the teacher's scores).

    The centre is over time; the bottleneck is centred over the batch too (see `functional.centred`), as batch norm in
    the authors' heads for CNNs does: 4 samples do, and of 2 it would make opposites, whatever they show. `local_views`
    more views per sample go through the student alone; each costs a pass of the encoder. The teacher's batch norms use
    batch statistics, as the authors' do. Their warm-up of its temperature is the caller's: temperatures are inputs.
    """

    hidden: int = 128
    projection: int = 64
    prototypes: int = 256
    local_views: int = 2
    name: ClassVar[str] = "dino"
    family: ClassVar[str] = "distillation"
    hyper: ClassVar[dict[str, float]] = {
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "teacher_decay": 0.99,
        "centre_decay": 0.9,
    }
    min_batch: ClassVar[int] = 4

    def crops(self) -> tuple[int, int]:
        """Two global views, which the teacher sees too, and `local_views` local ones."""
        return (2, self.local_views)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A three-layer projector to a bottleneck, then prototypes."""
        return {
            "projector": centred_mlp((encoder.embedding_dim, self.hidden, self.hidden, self.projection), norm),
            "prototypes": Prototypes(self.projection, self.prototypes),
        }

    def slots(self, theta: Tensor) -> Slots:
        """A copy of the network, and a centre of zeros."""
        return {
            "teacher": theta.clone(),
            "centre": torch.zeros(self.prototypes, dtype=theta.dtype, device=theta.device),
        }

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy of every view of the student and every other global view of the teacher."""
        h, student = _scores(network, batch.views, gather)
        _, teacher = _scores(network.at(slots["teacher"]), batch.views[:2], gather)
        teacher = [scores.detach() for scores in teacher]
        value = dino_loss(student, teacher, slots["centre"], hyper["student_temperature"], hyper["teacher_temperature"])
        mean = torch.cat(teacher).mean(dim=0)
        return Loss(value, h, {"centre": moving_average(slots["centre"], mean, hyper["centre_decay"])})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}


def _scores(network: Network, views: tuple[Tensor, ...], gather: Gather) -> tuple[Tensor, list[Tensor]]:
    """Embeddings of all views, `(V N, D)`, and the gathered prototype scores of each."""
    h = network("encoder", torch.cat(views))
    z = network("projector", h)
    return h, view_scores(network, z, len(views), gather)
