"""Learning without forgetting, on features (Li & Hoiem 2016, arXiv 1606.09282; without labels, Jung et al. 2016, arXiv
1607.00122): embed today's samples as the anchored network did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import predictive_distillation
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Gather, Network, Slots


@dataclass(frozen=True)
class LwF(Strategy):
    """`weight * mean |z / |z| - z* / |z*||^2`, z* being the embedding by slot `anchor` in evaluation mode.

    Rows at unit length, so that one weight fits encoders of any scale. Nothing lets the features turn: this holds the
    old ones fast, and what is new has to fit in between. Memory: 4 bytes per parameter. Compute: one forward pass.
    """

    name: ClassVar[str] = "lwf"
    hyper: ClassVar[dict[str, float]] = {"lwf_weight": 1.0}
    price: ClassVar[Price] = Price(bytes_per_parameter=4, forward=1)
    consolidates: ClassVar[bool] = True

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The anchor starts as a copy of the network."""
        return {"anchor": theta.clone()}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """`2 - 2 cos` of each row's embedding and its anchored one."""
        x, embedding = rows.embedded
        with torch.no_grad():
            past = network.frozen(slots["anchor"])("encoder", x)
        return hyper["lwf_weight"] * predictive_distillation(gather(embedding), gather(past))

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The network becomes the anchor."""
        return {"anchor": state["theta"]}
