"""A rule whose work the exported training step does: the device sets its weight and what it takes for the fleet."""

from dataclasses import dataclass
from typing import ClassVar

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated.rules.base import Float, Rule
from federated.rules.memory import Memory


@dataclass(frozen=True)
class StepTerm(Rule):
    """Takes the fleet's weights; `hyper`, the weight of the step's term, becomes `weight`.

    The bundle needs the strategy that has the rule's name.
    """

    weight: float = 1.0
    hyper: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise FederationError(f"{self.name}: weight must be at 0 or above, found {self.weight}")

    def adopt(self, learner: Learner, fleet: Float, number: int, memory: Memory) -> None:
        """As every rule does, with the term's weight set; FederationError for a bundle without the term."""
        if self.hyper not in learner.bundle.manifest.hyper:
            raise FederationError(
                f"{self.name} needs a bundle whose step has the term: export it with --strategy {self.name}"
            )
        learner.hyper[self.hyper] = self.weight
        super().adopt(learner, fleet, number, memory)
