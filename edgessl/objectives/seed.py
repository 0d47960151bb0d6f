"""SEED: a compact student ranks samples as a large teacher does, without labels (Fang et al. 2021, arXiv 2101.04731).

The bridge from an encoder that a GPU pretrained to one that a device runs; CompRess (Koohpayegani et al. 2020, arXiv
2010.14713) is the same idea.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, mlp
from edgessl.objectives.functional import normalize, similarity_distillation_loss
from edgessl.objectives.moco import enqueue


@dataclass(frozen=True)
class SEED(Objective):
    """Slots `teacher` (the weights of the encoder in the checkpoint `teacher`, in a layout of their own; they never
    change) and `queue` `(queue_size, D)` of its unit-length embeddings.

    Student and teacher see the same view, as in the paper; the teacher runs in evaluation mode. The queue, not the
    batch, holds what is compared, so a batch of 1 would do; 2 is what batch norm needs. The teacher travels with the
    training state: a bundle that goes on distilling on the device carries it.
    """

    teacher: str = ""
    hidden: int = 128
    queue_size: int = 512
    name: ClassVar[str] = "seed"
    family: ClassVar[str] = "distillation"
    hyper: ClassVar[dict[str, float]] = {"student_temperature": 0.2, "teacher_temperature": 0.07}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    @cached_property
    def _teacher(self) -> tuple[Encoder, ParameterLayout]:
        from edgessl.checkpoint import Checkpoint  # which imports the recipe, which imports all objectives

        if not self.teacher:
            raise ConfigError(f"objective {self.name}: give the option teacher, the path of a pretrained checkpoint")
        encoder = Checkpoint.load(self.teacher).encoder().eval()
        return encoder, ParameterLayout.of(encoder)

    def crops(self) -> tuple[int, int]:
        """One view."""
        return (1, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector to the teacher's dimension; ConfigError for a teacher of other samples."""
        teacher, _ = self._teacher
        if teacher.input_shape != encoder.input_shape:
            raise ConfigError(
                f"objective {self.name}: the teacher {self.teacher} takes samples {teacher.input_shape}, the student "
                f"{encoder.input_shape}"
            )
        return {"projector": mlp((encoder.embedding_dim, self.hidden, teacher.embedding_dim), norm)}

    def slots(self, theta: Tensor) -> Slots:
        """The teacher's weights, and random unit embeddings."""
        teacher, layout = self._teacher
        queue = torch.randn(self.queue_size, teacher.embedding_dim, dtype=theta.dtype)
        return {
            "teacher": layout.flatten_module(teacher).to(theta),
            "queue": normalize(queue).to(theta.device),
        }

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy of the student's ranking and the teacher's; the teacher's embeddings then enter the queue."""
        (view,) = batch.views
        teacher, layout = self._teacher
        with torch.no_grad():
            wanted = gather(functional_call(teacher, layout.unflatten(slots["teacher"]), (view,)))
        h = network("encoder", view)
        student = gather(network("projector", h))
        temperatures = hyper["student_temperature"], hyper["teacher_temperature"]
        value = similarity_distillation_loss(student, wanted, slots["queue"], *temperatures)
        return Loss(value, h, {"queue": enqueue(slots["queue"], normalize(wanted))})
