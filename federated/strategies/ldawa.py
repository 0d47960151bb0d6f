"""Layer-wise divergence-aware aggregation: a client counts for a layer as far as it points the fleet's way."""

from collections.abc import Sequence

import numpy as np

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.errors import FederationError
from federated.strategies.base import Float, Streaming, WeightedMean

WARM_UP_ROUNDS = 2


class LDAWA(Streaming):
    """L-DAWA (Rehman et al., ICCV 2023, arXiv 2307.07393), by the authors' published code.

        w_l = 1/K sum_k cos(w_k_l, g_l) w_k_l      for every layer l, g the weights that the round started from

    Neither examples nor the sum of the cosines normalise it, so that layers on which clients disagree shrink. Single
    numbers, running statistics and what no step moves are averaged plainly, and so is all in the first two rounds.
    `layout` says where the layers lie. Streams: the cosines need g alone. Without individual updates (secure
    aggregation) it cannot be had.
    """

    def __init__(self, layout: Sequence[ParameterEntry]) -> None:
        if not layout:
            raise FederationError("ldawa needs the layout of the parameters: give the bundle's manifest.parameters")
        self._layout = tuple(layout)

    def begin(self, number: int, reference: Float) -> None:
        """Nothing added yet."""
        if (size := sum(entry.size for entry in self._layout)) != len(reference):
            raise FederationError(f"ldawa: a layout of {size} parameters for weights of {len(reference)}")
        self._plain = number <= WARM_UP_ROUNDS
        self._from, self._mean = reference.astype(np.float64), WeightedMean()

    def add(self, theta: Float, examples: int) -> None:
        """Add theta, every layer times its cosine; examples do not count after the warm-up."""
        values = theta.astype(np.float64)
        if self._plain:
            self._mean.add(values, examples)
            return
        for entry in self._layout:
            if entry.kind in ("weight", "vector") and entry.size > 1:
                here = slice(entry.offset, entry.offset + entry.size)
                values[here] *= cosine(values[here], self._from[here])
        self._mean.add(values, 1)

    def finish(self) -> Float:
        """The mean, in float32."""
        return self._mean.value().astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two vectors; 1 where either is zero, as an angle there is none."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 1.0
