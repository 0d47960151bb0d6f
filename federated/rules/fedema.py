"""Take the fleet's weights as far as they are near the own ones."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgessl.errors import FederationError
from federated.rules.base import Float, Layout, Rule, trained
from federated.rules.memory import Memory

PREDICTOR = "predictor"
_SCALE = "fedema-scale"


@dataclass(frozen=True)
class FedEMA(Rule):
    """Zhuang, Wen and Zhang, "Divergence-aware federated self-supervised learning", ICLR 2022, arXiv 2204.04385.

        m = min(scale |g - w|, 1),   start = m w + (1 - m) g

    g is the fleet's, w the device's own; the distance is that of the trained weights without the predictor, the move
    all of theta's but what no optimizer trains (running statistics), which is the fleet's. The paper's autoscaler sets
    scale = tau / |g - w| once, at the device's second participation in a row, so that m = tau there. A device that took
    no part in the round before takes g. `scale` above 0 is used in place of the autoscaler (0.8 in the paper, for
    ResNet-18). Where a device went on learning between rounds, w is what it has learned since.

    The authors' code measures another distance (of the device's last local training, convolutions only); this is the
    paper's.
    """

    tau: float = 0.7
    scale: float = 0.0
    name: ClassVar[str] = "fedema"

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1 or not self.scale >= 0:
            raise FederationError(
                f"fedema: tau must lie in [0, 1], scale at 0 or above; found {self.tau}, {self.scale}"
            )

    def start(self, own: Float, fleet: Float, number: int, memory: Memory, layout: Layout) -> Float:
        """The mixture, or the fleet's weights."""
        if memory.round == 0 or memory.round < number - 1:
            return fleet
        part = trained(layout, without=PREDICTOR)
        distance = float(np.linalg.norm((fleet - own)[part].astype(np.float64)))
        scale = self.scale or memory.numbers.setdefault(_SCALE, self.tau / distance if distance else 0.0)
        mix = min(scale * distance, 1.0)
        return np.where(trained(layout), mix * own + (1 - mix) * fleet, fleet).astype(np.float32)
