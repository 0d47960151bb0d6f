"""Take the fleet's weights."""

from dataclasses import dataclass
from typing import ClassVar

from federated.rules.base import Rule


@dataclass(frozen=True)
class FedAvgRule(Rule):
    """Start from the fleet's weights, whatever the own ones are (McMahan et al., AISTATS 2017).

    A momentum teacher stays the device's own, the best simple variant of Zhuang et al., ICLR 2022.
    """

    name: ClassVar[str] = "fedavg"
