"""DER: give remembered samples the embeddings they had when they were seen (Buzzega et al. 2020, arXiv 2004.07211; for
self-supervision, Madaan et al. 2022, arXiv 2110.06976)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import relative_error
from edgessl.objectives.base import Gather, Network, Slots


@dataclass(frozen=True)
class DER(Strategy):
    """`weight * sum |z - s|^2 / sum |s|^2` over the views of remembered rows (in units of what is stored, so that one
    weight fits encoders of any scale); s, stored with the sample, is its embedding without augmentation.

    No second network: the past is in the memory, at 4 bytes per number of an embedding and sample. Compute: none where
    the objective embeds views, else one view's pass.
    """

    name: ClassVar[str] = "der"
    hyper: ClassVar[dict[str, float]] = {"der_weight": 0.5}
    price: ClassVar[Price] = Price(bytes_per_feature=4)
    stores: ClassVar[bool] = True

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """The relative squared error, all views against the same stored embedding."""
        assert rows.stored is not None
        _, embedding = rows.embedded
        views = [view[rows.half :] for view in rows.by_view(embedding)]
        stored = rows.stored[rows.half :].repeat(len(views), 1)
        return hyper["der_weight"] * relative_error(gather(torch.cat(views)), gather(stored))
