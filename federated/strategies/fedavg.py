"""Federated averaging that keeps one vector in memory however many clients reply."""

import numpy as np

from federated.strategies.base import Float, Streaming, WeightedMean


class StreamingFedAvg(Streaming):
    """The mean of the clients' weights, weighted by their "num-examples".

    FedAvg of McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
    arXiv 1602.05629.
    """

    def begin(self, number: int, reference: Float) -> None:
        """Nothing added yet."""
        self._mean = WeightedMean()

    def add(self, theta: Float, examples: int) -> None:
        """Add `examples` times theta."""
        self._mean.add(theta, examples)

    def finish(self) -> Float:
        """The mean, in float32."""
        return self._mean.value().astype(np.float32)
