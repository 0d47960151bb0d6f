"""PFR: project today's backbone features back to the past network's (Gomez-Villa et al. 2022, arXiv 2112.15022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import predictive_distillation
from edgessl.continual.strategies.heads import PREDICTOR, Predictor, forgotten
from edgessl.encoders.base import Encoder
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Gather, Network, Slots


@dataclass(frozen=True)
class PFR(Strategy):
    """`-weight * mean cos(m(f), f*)`: m a two-layer projector, f the encoder's embedding, f* that by slot
    `anchor`, in evaluation mode.

    On features, where CaSSLe works on projections: what is kept is what a device shows. Memory: 4 bytes per parameter.
    Compute: one forward pass.
    """

    hidden: int = 128
    name: ClassVar[str] = "pfr"
    hyper: ClassVar[dict[str, float]] = {"pfr_weight": 1.0}
    price: ClassVar[Price] = Price(bytes_per_parameter=4, forward=1)
    consolidates: ClassVar[bool] = True

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """The projector back to the past."""
        return {PREDICTOR: Predictor(encoder.embedding_dim, self.hidden, norm)}

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The anchor starts as a copy of the network."""
        return {"anchor": theta.clone()}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """`1 - cos`, the paper's loss and a constant: zero where the past is met exactly."""
        x, embedding = rows.embedded
        with torch.no_grad():
            past = network.frozen(slots["anchor"])("encoder", x)
        value = 0.5 * predictive_distillation(gather(network(PREDICTOR, embedding)), gather(past))
        return hyper["pfr_weight"] * value

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The network becomes the anchor; the projector starts anew."""
        return {"anchor": state["theta"], "theta": forgotten(state["theta"], layout)}
