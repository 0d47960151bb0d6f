"""SCALE: contrast new samples with pseudo-positives, keep who is near whom among the remembered (Yu et al. 2023, arXiv
2208.11266)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import pseudo_contrastive_loss, pseudo_positives, relation_distillation
from edgessl.continual.strategies.heads import project
from edgessl.objectives.base import Gather, Network, Slots


@dataclass(frozen=True)
class SCALE(Strategy):
    """`contrast * L_cont + distill * L_forget` on what the objective's projector gives (without one: the embedding).

    L_cont: new samples against all, their positives being their other views and the new samples nearest to them, see
    `functional.pseudo_positives`. L_forget: relations among remembered samples as they were, from the embeddings stored
    with them; in the authors' code the past is the network one step before. Added to any objective, where the paper has
    none beside it. Memory: 4 bytes per number of an embedding and sample. Compute: none where the objective embeds
    views, else one view's pass.
    """

    name: ClassVar[str] = "scale"
    hyper: ClassVar[dict[str, float]] = {
        "scale_contrast": 0.5,
        "scale_distill": 0.1,
        "scale_temperature": 0.1,
        "scale_past_temperature": 0.05,
        "scale_tightness": 0.1,
    }
    price: ClassVar[Price] = Price(bytes_per_feature=4)
    stores: ClassVar[bool] = True

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """Both terms; positives come from embeddings, without gradient."""
        assert rows.stored is not None
        _, embedding = rows.embedded
        temperature, half = hyper["scale_temperature"], rows.half
        z = rows.by_view(project(network, embedding, rows.projected))
        new, old = [gather(view[:half]) for view in z], [gather(view[half:]) for view in z]
        seen = [gather(view[:half].detach()) for view in rows.by_view(embedding)]
        positives = pseudo_positives(seen, temperature, hyper["scale_tightness"])
        contrast = pseudo_contrastive_loss(new, old, positives, temperature)
        past = gather(rows.stored[half:])
        kept = [relation_distillation(view, past, temperature, hyper["scale_past_temperature"]) for view in old]
        return hyper["scale_contrast"] * contrast + hyper["scale_distill"] * torch.stack(kept).mean()
