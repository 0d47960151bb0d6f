"""Orchestra: find a sample in the fleet's cluster that a teacher finds it in (Lubana et al. 2022, arXiv 2205.11506)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError
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
from edgessl.objectives.functional import normalize
from edgessl.objectives.functional.sequence import token_cross_entropy
from edgessl.objectives.moco import enqueue
from edgessl.objectives.rotation import quarter_turns


class Clusters(nn.Module):
    """Cosines of unit rows (N, dim) and `count` centroids, which no step moves: a federation's server does.

    They are a buffer, hence a fixed entry of theta, and travel with it (strategy and rule "orchestra" in `federated`).
    """

    centroids: Tensor

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.register_buffer("centroids", normalize(torch.randn(count, dim)))

    def forward(self, z: Tensor) -> Tensor:
        """(N, dim) to (N, count)."""
        return z @ self.centroids.T


@dataclass(frozen=True)
class Orchestra(Objective):
    """Slots `teacher`, the moving average of theta, and `projections` `(memory, projection)`, its latest unit rows.

    The centroids stay where they are until the server of a federation has clustered what the devices' `projections`
    cluster to; alone on a device, random ones are all there is. Against the degenerate answer, that everything is in
    one cluster, one more view of every sample is turned by a random quarter and the turn predicted. No centring over
    the batch, as elsewhere here: what all samples of a device have in common is what sets it apart from others. A
    sample is compared with centroids, not with others: 2 are enough. Square images; three passes per sample and one by
    the teacher.
    """

    hidden: int = 128
    projection: int = 64
    clusters: int = 64
    memory: int = 128
    name: ClassVar[str] = "orchestra"
    family: ClassVar[str] = "clustering"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.1, "teacher_decay": 0.996}
    kinds: ClassVar[tuple[str, ...]] = ("image",)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """By which quarter a sample is turned."""
        return 1

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector, the clusters, a classifier of turns; ConfigError unless samples are square."""
        shape = encoder.input_shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(f"objective 'orchestra': expected square images (C, H, H), found samples {shape}")
        return {
            "projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm),
            "clusters": Clusters(self.projection, self.clusters),
            "turns": nn.Linear(self.projection, 4),
        }

    def slots(self, theta: Tensor) -> Slots:
        """The teacher starts as a copy of the network, the projections as random unit rows."""
        rows = torch.randn(self.memory, self.projection, dtype=theta.dtype)
        return {"teacher": theta.clone(), "projections": normalize(rows).to(theta.device)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy of view b's clusters and the teacher's of view a, and of the turns."""
        a, b = batch.views
        turn = torch.floor(4.0 * batch.noise[:, :1])
        chosen = (turn == torch.arange(4, dtype=turn.dtype, device=turn.device)).to(a.dtype)  # (N, 4)
        turned = torch.stack(quarter_turns(a).chunk(4), dim=1)  # (N, 4, C, H, H)
        turned = (turned * chosen.reshape(*chosen.shape, 1, 1, 1)).sum(dim=1)
        h = encode_pair(network, b, turned)
        z_b, z_turned = halves(network("projector", h))
        teacher = network.at(slots["teacher"])
        target = normalize(teacher("projector", teacher("encoder", a)).detach())
        wanted = torch.softmax(network("clusters", target) / hyper["temperature"], dim=1)
        found = torch.log_softmax(network("clusters", normalize(z_b)) / hyper["temperature"], dim=1)
        clustering = -(wanted * found).sum(dim=1, keepdim=True)
        turning = token_cross_entropy(network("turns", z_turned), turn.squeeze(1).long())
        value = gather(clustering + turning.unsqueeze(1)).mean()
        return Loss(value, h.chunk(2)[0], {"projections": enqueue(slots["projections"], gather(target))})

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
