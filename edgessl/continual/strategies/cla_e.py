"""CLA-E: align today's projections to those of a moving average of the network (Cignoni et al. 2025, arXiv
2507.10434)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import predictive_distillation
from edgessl.continual.strategies.heads import PREDICTOR, Predictor, project, projected_by, projected_size
from edgessl.encoders.base import Encoder
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Gather, Network, Slots, moving_average


@dataclass(frozen=True)
class CLAE(Strategy):
    """`weight * (2 - 2 cos(a(z), z'))` over all views: a the aligner, two layers; z what the objective's projector
    gives (the embedding where it has none), z' the same by slot `average`, the moving average of theta, in evaluation
    mode.

    CaSSLe without boundaries: the past is a little behind all the time, and nothing waits for a drift event. Memory: 4
    bytes per parameter. Compute: one forward pass.
    """

    hidden: int = 128
    name: ClassVar[str] = "cla_e"
    hyper: ClassVar[dict[str, float]] = {"cla_weight": 0.5, "average_decay": 0.99}
    price: ClassVar[Price] = Price(bytes_per_parameter=4, forward=1)

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """The aligner."""
        return {PREDICTOR: Predictor(projected_size(encoder, heads), self.hidden, norm)}

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The average starts as a copy of the network."""
        return {"average": theta.clone()}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """`2 - 2 cos` of aligned and averaged rows."""
        x, embedding = rows.embedded
        p = network(PREDICTOR, project(network, embedding, rows.projected))
        z = projected_by(network, slots["average"], x, rows.projected)
        return hyper["cla_weight"] * predictive_distillation(gather(p), gather(z))

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The average follows the new theta."""
        return moved, {"average": moving_average(slots["average"], moved, hyper["average_decay"])}
