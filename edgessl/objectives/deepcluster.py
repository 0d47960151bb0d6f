"""DeepCluster, online: predict which k-means cluster a sample is in (Caron et al. 2018, arXiv 1807.05520)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, centred_mlp, encode_pair, halves
from edgessl.objectives.functional import centred, cross_view_entropy, minibatch_kmeans, normalize


@dataclass(frozen=True)
class DeepCluster(Objective):
    """Slots `centroids` `(clusters, projection)` and `counts` `(clusters,)` of a mini-batch k-means (Sculley 2010).

    DeepCluster runs k-means over the whole data set before every epoch and trains a fresh classifier on the result. A
    device has neither the data set at hand nor epochs, and a step is a function of a bounded state, so the centroids
    move with every batch, and they are the classifier, as in DeepCluster v2 (appendix of arXiv 2006.09882): clusters
    keep their index, nothing is reset. Clusters that lose their share are seeded again from samples that fit badly,
    where the authors split a large one. Projections are centred over the batch, where the authors whiten. The
    centroids remember earlier batches, so 4 samples do; of 2, centring would make opposites, whatever they show.
    """

    hidden: int = 128
    projection: int = 64
    clusters: int = 64
    name: ClassVar[str] = "deepcluster"
    family: ClassVar[str] = "clustering"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.1, "centroid_decay": 0.99, "reseed": 0.1}
    min_batch: ClassVar[int] = 4

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector."""
        return {"projector": centred_mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def slots(self, theta: Tensor) -> Slots:
        """Random unit centroids that stand for one row each."""
        rows = torch.randn(self.clusters, self.projection, dtype=theta.dtype)
        counts = torch.ones(self.clusters, dtype=theta.dtype, device=theta.device)
        return {"centroids": normalize(rows).to(theta.device), "counts": counts}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy of both views and the cluster of the sample, which is that of its views' mean."""
        h = encode_pair(network, *batch.views)
        z_a, z_b = (normalize(centred(gather(z))) for z in halves(network("projector", h)))
        sample = normalize((z_a + z_b).detach())
        centroids, counts, assignment = minibatch_kmeans(
            slots["centroids"], slots["counts"], sample, hyper["centroid_decay"], hyper["reseed"]
        )
        directions = normalize(slots["centroids"])
        logits = [z @ directions.T / hyper["temperature"] for z in (z_a, z_b)]
        value = cross_view_entropy(logits, [assignment, assignment])
        return Loss(value, h, {"centroids": centroids, "counts": counts})
