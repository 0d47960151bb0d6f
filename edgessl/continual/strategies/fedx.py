"""Learn from the fleet as from a teacher, by contrast and by relations (FedX: Han et al. 2022, arXiv 2207.09158)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import relational_divergence
from edgessl.continual.strategies.heads import PREDICTOR, Predictor, project, projected_by, projected_size
from edgessl.encoders.base import Encoder
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Gather, Network, Slots
from edgessl.objectives.functional import nt_xent_loss


@dataclass(frozen=True)
class FedX(Strategy):
    """`weight (NT-Xent(h(z_a), f_b) + JS(h(z_a), h(z_b); f_r) + JS(z_a, z_b; z_r))`, beside the objective.

    z are the projections of two views by the network, f those by slot `fleet` (the weights that the last round started
    from; `Learner.adopt` sets it), h a predictor. JS is the Jensen-Shannon divergence between how either view relates
    to other samples r, `softmax(cos / temperature)`: the two views of a sample should have the same neighbours, by the
    device's own eyes and by the fleet's. The paper draws r as a second batch; here r are the batch's other samples. An
    objective without two views of whole samples has the contrast with the fleet alone. The authors' code takes the
    divergence from the mean to the views instead of from the views to the mean, and its h starts at random. Memory: 4
    bytes per parameter. Compute: one forward pass.
    """

    hidden: int = 128
    name: ClassVar[str] = "fedx"
    hyper: ClassVar[dict[str, float]] = {"fedx_weight": 1.0, "fedx_temperature": 0.1}
    price: ClassVar[Price] = Price(bytes_per_parameter=4, forward=1)

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """The predictor."""
        return {PREDICTOR: Predictor(projected_size(encoder, heads), self.hidden, norm)}

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The fleet starts as a copy of the network."""
        return {"fleet": theta.clone()}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """The three terms, of the first two views."""
        x, embedding = rows.embedded
        z = project(network, embedding, rows.projected)
        p = network(PREDICTOR, z)
        f = projected_by(network, slots["fleet"], x, rows.projected)
        (z_a, z_b), (p_a, p_b), (f_a, f_b) = (
            (gather(views[0]), gather(views[min(1, len(views) - 1)])) for views in map(rows.by_view, (z, p, f))
        )
        temperature = hyper["fedx_temperature"]
        value = nt_xent_loss(p_a, f_b, temperature)
        value = value + relational_divergence(p_a, p_b, f_a, temperature)
        value = value + relational_divergence(z_a, z_b, z_a, temperature)
        return hyper["fedx_weight"] * value
