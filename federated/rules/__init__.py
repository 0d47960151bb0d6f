"""Client rules: what a device does with the fleet's weights. The server names one; the device has them all.

config of a train message:  "rule": "fedema", "rule-tau": 0.7
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from edgessl.errors import FederationError
from federated.rules.base import Rule
from federated.rules.fedavg import FedAvgRule
from federated.rules.fedema import FedEMA
from federated.rules.fedprox import FedProx
from federated.rules.fedu import FedU
from federated.rules.fedx import FedX
from federated.rules.memory import Memory
from federated.rules.orchestra import OrchestraRule

__all__ = [
    "RULES",
    "FedAvgRule",
    "FedEMA",
    "FedProx",
    "FedU",
    "FedX",
    "Memory",
    "OrchestraRule",
    "Rule",
    "parse_rule",
    "rule_config",
]

RULE = "rule"
_PREFIX = "rule-"

RULES: dict[str, type[Rule]] = {cls.name: cls for cls in (FedAvgRule, FedU, FedEMA, FedProx, FedX, OrchestraRule)}


def parse_rule(config: Mapping[str, Any]) -> Rule:
    """The rule that a message's config asks for; fedavg where it asks for none.

    FederationError for an unknown rule, a number that it does not have, or one that is no finite number.
    """
    name = config.get(RULE, FedAvgRule.name)
    if not isinstance(name, str) or name not in RULES:
        raise FederationError(f"unknown rule {str(name)[:64]!r}; this device knows {', '.join(RULES)}")
    known = sorted(field.name for field in dataclasses.fields(RULES[name]))  # type: ignore[arg-type]
    numbers: dict[str, float] = {}
    for key, value in config.items():
        if key.startswith(_PREFIX):
            if (option := key.removeprefix(_PREFIX)) not in known:
                raise FederationError(
                    f"rule {name!r} has no number {option[:64]!r}; it has {', '.join(known) or 'none'}"
                )
            if type(value) not in (int, float) or not math.isfinite(value):
                raise FederationError(f"{key}: expected a finite number, found {value!r}")
            numbers[option] = float(value)
    return RULES[name](**numbers)


def rule_config(name: str, numbers: Mapping[str, float] | None = None) -> dict[str, str | float]:
    """What a server puts into its messages to have devices follow a rule; checked here as on the device."""
    config: dict[str, str | float] = {RULE: name} | {_PREFIX + k: float(v) for k, v in (numbers or {}).items()}
    parse_rule(config)
    return config
