"""Take the fleet's encoder, and its predictor only while the own one learns little."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgessl.errors import FederationError
from federated.rules.base import Float, Layout, Rule
from federated.rules.fedema import PREDICTOR
from federated.rules.memory import Memory

_MOVED = "fedu-moved"


@dataclass(frozen=True)
class FedU(Rule):
    """Zhuang et al., "Collaborative unsupervised visual representation learning from decentralized data", ICCV 2021.

    Divergence-aware predictor update: the encoder and whatever else is the fleet's; the predictor is the fleet's only
    if the device's last local training moved its encoder by less than `threshold`. The move is, as in the authors'
    code, the mean over convolution kernels of |after - before|; over all weight matrices where the encoder has none.
    """

    threshold: float = 0.4
    name: ClassVar[str] = "fedu"

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise FederationError(f"fedu: threshold must be at 0 or above, found {self.threshold}")

    def start(self, own: Float, fleet: Float, number: int, memory: Memory, layout: Layout) -> Float:
        """The fleet's weights, the predictor's maybe one's own."""
        predictor = [e for e in layout if e.name.startswith(PREDICTOR + ".") and e.kind in ("weight", "vector")]
        if not predictor:
            raise FederationError("fedu needs an objective with a predictor, such as byol or simsiam")
        if memory.numbers.get(_MOVED, 0.0) < self.threshold:
            return fleet
        start = fleet.copy()
        for entry in predictor:
            here = slice(entry.offset, entry.offset + entry.size)
            start[here] = own[here]
        return start

    def learned(self, before: Float, after: Float, memory: Memory, layout: Layout) -> None:
        """Remember how far the encoder moved."""
        weights = [e for e in layout if e.name.startswith("encoder.") and e.kind == "weight"]
        kernels = [e for e in weights if len(e.shape) > 2] or weights
        moves = [np.linalg.norm((after - before)[e.offset : e.offset + e.size].astype(np.float64)) for e in kernels]
        memory.numbers[_MOVED] = float(np.mean(moves))
