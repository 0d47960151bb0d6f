"""Asynchronous federated learning: no rounds, nobody waits for the slowest."""

import math
from dataclasses import dataclass

from edgessl.errors import FederationError


@dataclass(frozen=True)
class FedBuff:
    """FedBuff (Nguyen et al., AISTATS 2022, arXiv 2106.06639): a new version with every `buffer` updates.

        w' = w + lr / buffer * sum_i weight(s_i) (w_i - w at the version that device i started from)

    s_i is the staleness: how many versions were made while device i trained. A device is asked again as soon as it has
    replied. `max_staleness`: an update older than that many versions is refused, which bounds the versions that the
    server keeps. Not for synchronous cohorts (secure aggregation).
    """

    buffer: int = 10
    lr: float = 1.0
    max_staleness: int = 20

    def __post_init__(self) -> None:
        if self.buffer < 1 or self.lr <= 0 or self.max_staleness < 0:
            raise FederationError(
                "fedbuff: buffer must be at least 1, lr above 0, max_staleness not negative; found "
                f"{self.buffer}, {self.lr} and {self.max_staleness}"
            )


def staleness_weight(staleness: int) -> float:
    """1 / (1 + sqrt(s)), as NVIDIA FLARE has it; the paper's 1 / sqrt(1 + s) falls off more slowly."""
    return 1.0 / (1.0 + math.sqrt(staleness))
