"""How the rounds of a federation run."""

from dataclasses import dataclass

from edgessl.errors import FederationError
from federated.codecs import parse_codec
from federated.codecs.link import WHOLE


@dataclass(frozen=True)
class RoundSettings:
    """What a server asks for in every round.

    Attributes:
        rounds: rounds in all, those before a resume included; versions of the weights where the strategy is FedBuff.
        fraction_train: share of the eligible nodes whose replies make a round, in (0, 1].
        min_nodes: nodes that must be eligible before a round begins, and the least that are asked.
        node_timeout: seconds to wait for them.
        over_selection: how many times as many nodes are asked as replies are needed (1.3 in Bonawitz et al. 2019, arXiv
            1902.01046). Above 1 a round ends with the last reply needed, and those who come late are not in it.
        min_replies: good replies without which a round fails.
        round_timeout: seconds after which a round ends with what there is.
        remind_after: seconds after which a silent node is sent its message once more: its SuperLink hands out a message
            once, and the answer may have been lost. Longer than a node's longest wait between two looks. 0: never.
        cool_down: rounds for which a node that failed is asked only where others are too few.
        seed: of the choice of nodes.
        codec: how devices send what they learned, "whole" (float32) or a name that `codecs.parse_codec` reads.
        downlink: how new weights go to devices that have earlier ones; the same names.
    """

    rounds: int
    fraction_train: float = 1.0
    min_nodes: int = 2
    node_timeout: float = 300.0
    over_selection: float = 1.0
    min_replies: int = 1
    round_timeout: float = 600.0
    remind_after: float = 120.0
    cool_down: int = 0
    seed: int = 0
    codec: str = WHOLE
    downlink: str = WHOLE

    def __post_init__(self) -> None:
        if not 0 < self.fraction_train <= 1:
            raise FederationError(f"fraction_train must lie in (0, 1], found {self.fraction_train}")
        if not 1 <= self.over_selection <= 10:
            raise FederationError(f"over_selection must lie in [1, 10], found {self.over_selection}")
        for name in ("rounds", "min_nodes", "min_replies"):
            if (value := getattr(self, name)) < 1:
                raise FederationError(f"{name} must be at least 1, found {value}")
        for name in ("node_timeout", "round_timeout", "remind_after", "cool_down", "seed"):
            if not (value := getattr(self, name)) >= 0:
                raise FederationError(f"{name} must not be negative, found {value}")
        for name in (self.codec, self.downlink):
            if name != WHOLE:
                parse_codec(name)
