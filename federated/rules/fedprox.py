"""Stay near the fleet's weights while learning."""

from dataclasses import dataclass
from typing import ClassVar

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated.rules.base import Float, Rule
from federated.rules.memory import Memory

HYPER = "proximal_weight"


@dataclass(frozen=True)
class FedProx(Rule):
    """Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, arXiv 1812.06127.

    The term `weight / 2 |theta - fleet|^2` is part of the exported step: the bundle needs strategy "fedprox".
    """

    weight: float = 0.01
    name: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise FederationError(f"fedprox: weight must be at 0 or above, found {self.weight}")

    def adopt(self, learner: Learner, fleet: Float, number: int, memory: Memory) -> None:
        """Take the fleet's weights and set the term's weight."""
        if HYPER not in learner.bundle.manifest.hyper:
            raise FederationError("fedprox needs a bundle whose step has the term: export it with --strategy fedprox")
        learner.hyper[HYPER] = self.weight
        super().adopt(learner, fleet, number, memory)
