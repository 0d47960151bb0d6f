"""Learn from the fleet as from a teacher."""

from dataclasses import dataclass
from typing import ClassVar

from federated.rules.step_term import StepTerm


@dataclass(frozen=True)
class FedX(StepTerm):
    """Han et al., "FedX: unsupervised federated learning with cross knowledge distillation", ECCV 2022.

    Mean and messages are FedAvg's; what is FedX's is in the step, see `edgessl.continual.strategies.fedx`.
    """

    name: ClassVar[str] = "fedx"
    hyper: ClassVar[str] = "fedx_weight"
