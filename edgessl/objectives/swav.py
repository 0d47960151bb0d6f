"""SwAV: predict your other view's balanced assignment to prototypes (Caron et al. 2020, arXiv 2006.09882)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, centred_mlp
from edgessl.objectives.functional import centred, normalize, sinkhorn, swav_loss
from edgessl.objectives.moco import enqueue
from edgessl.objectives.prototypes import Prototypes, view_scores


@dataclass(frozen=True)
class SwAV(Objective):
    """Slot `queue` `(queue_size, projection)`: unit projections of view a of earlier batches, newest first.

    A batch smaller than the number of prototypes cannot use them equally; the queue joins it in the Sinkhorn step. Let
    both together hold a few samples per prototype, and 4 samples do; of 2, centring (see `functional.centred`) would
    make opposites, whatever they show. The authors start the queue after 15 epochs and keep one per view; ours starts
    with random rows, which ask for nothing but balance, and serves both views. `local_views` more views per sample
    predict only; each costs a pass of the encoder.
    """

    hidden: int = 128
    projection: int = 64
    prototypes: int = 64
    queue_size: int = 512
    local_views: int = 0
    name: ClassVar[str] = "swav"
    family: ClassVar[str] = "clustering"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.1, "sinkhorn_epsilon": 0.05}
    min_batch: ClassVar[int] = 4

    def crops(self) -> tuple[int, int]:
        """Two global views, which give codes, and `local_views` local ones."""
        return (2, self.local_views)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector, then prototypes."""
        return {
            "projector": centred_mlp((encoder.embedding_dim, self.hidden, self.projection), norm),
            "prototypes": Prototypes(self.projection, self.prototypes),
        }

    def slots(self, theta: Tensor) -> Slots:
        """Random unit rows."""
        rows = torch.randn(self.queue_size, self.projection, dtype=theta.dtype)
        return {"queue": normalize(rows).to(theta.device)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Swapped prediction of the global views' codes; view a then enters the queue."""
        h = network("encoder", torch.cat(batch.views))
        z = network("projector", h)
        scores = view_scores(network, z, len(batch.views), gather)
        queued = network("prototypes", slots["queue"]).detach()
        epsilon = hyper["sinkhorn_epsilon"]
        codes = [sinkhorn(torch.cat([view.detach(), queued]), epsilon)[: view.shape[0]] for view in scores[:2]]
        keys = normalize(centred(gather(z.detach().chunk(len(batch.views))[0])))
        return Loss(swav_loss(scores, codes, hyper["temperature"]), h, {"queue": enqueue(slots["queue"], keys)})
