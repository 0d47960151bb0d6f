"""Stay near the fleet's weights (FedProx: Li et al. 2020, arXiv 1812.06127)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class FedProx(Strategy):
    """`weight / 2 |theta - fleet|^2`, slot `fleet` being the weights that the last round started from.

    `Learner.adopt` sets the slot, drift does not: what a device holds on to is the fleet, not its own past. Rule
    "fedprox" of `federated.rules` sets the weight. Running statistics, which no gradient moves, enter the value alone.
    Memory: 4 bytes per parameter. Compute: none but vector arithmetic.
    """

    name: ClassVar[str] = "fedprox"
    hyper: ClassVar[dict[str, float]] = {"proximal_weight": 0.01}
    price: ClassVar[Price] = Price(bytes_per_parameter=4)

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The fleet starts as a copy of the network."""
        return {"fleet": theta.clone()}

    def penalty(self, theta: Tensor, slots: Slots, hyper: Slots) -> tuple[Tensor, Tensor] | None:
        """The proximal term and its gradient, `weight (theta - fleet)`."""
        pull = hyper["proximal_weight"] * (theta - slots["fleet"])
        return 0.5 * (pull * (theta - slots["fleet"])).sum(), pull
