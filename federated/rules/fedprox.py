"""Stay near the fleet's weights while learning."""

from dataclasses import dataclass
from typing import ClassVar

from federated.rules.step_term import StepTerm


@dataclass(frozen=True)
class FedProx(StepTerm):
    """`weight / 2 |theta - fleet|^2`: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020."""

    weight: float = 0.01
    name: ClassVar[str] = "fedprox"
    hyper: ClassVar[str] = "proximal_weight"
