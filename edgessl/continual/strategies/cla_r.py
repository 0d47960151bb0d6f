"""CLA-R: align today's features of remembered samples to those stored with them (Cignoni et al. 2025, arXiv
2507.10434)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import predictive_distillation
from edgessl.continual.strategies.heads import PREDICTOR, Predictor
from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Gather, Network, Slots


@dataclass(frozen=True)
class CLAR(Strategy):
    """`weight * (2 - 2 cos(a(z), s))` over all views of remembered rows: a the aligner, two layers; s stored.

    DER with an aligner, so that features may move on. On embeddings, which are what the memory stores; the paper stores
    projections, and renews them at each replay, which a step that is a pure function leaves to the memory. Memory: 4
    bytes per number of an embedding and sample. Compute: none where the objective embeds views, else one view's pass.
    """

    hidden: int = 128
    name: ClassVar[str] = "cla_r"
    hyper: ClassVar[dict[str, float]] = {"cla_weight": 0.5}
    price: ClassVar[Price] = Price(bytes_per_feature=4)
    stores: ClassVar[bool] = True

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """The aligner."""
        return {PREDICTOR: Predictor(encoder.embedding_dim, self.hidden, norm)}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """`2 - 2 cos` of aligned and stored rows."""
        assert rows.stored is not None
        _, embedding = rows.embedded
        views = [view[rows.half :] for view in rows.by_view(embedding)]
        stored = rows.stored[rows.half :].repeat(len(views), 1)
        p = network(PREDICTOR, torch.cat(views))
        return hyper["cla_weight"] * predictive_distillation(gather(p), gather(stored))
