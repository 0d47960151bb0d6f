"""Adam on the server, with the clients' mean move for a gradient (FedOpt)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgessl.errors import FederationError
from federated.strategies.base import Double, Float, Streaming, WeightedMean


class FedAdam(Streaming):
    """Reddi et al., "Adaptive federated optimization", ICLR 2021, arXiv 2003.00295, algorithm 2.

        d = mean_k(w_k) - w,   m = b1 m + (1 - b1) d,   v = b2 v + (1 - b2) d^2,   w' = w + lr m / (sqrt(v) + tau)

    The mean is weighted by examples; as in the paper, neither moment is corrected for its start at zero (v there starts
    at tau^2 or more: here at tau^2). Moments are float64 (P,); float32 goes out (Flower's own gives out float64).
    """

    def __init__(self, *, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        if not (lr > 0 and tau > 0 and 0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise FederationError(
                f"fedadam: lr and tau must be above 0, both betas in [0, 1); found {lr}, {tau}, {beta1} and {beta2}"
            )
        self.lr, self.beta1, self.beta2, self.tau = lr, beta1, beta2, tau
        self._m: Double | None = None
        self._v: Double | None = None

    def begin(self, number: int, reference: Float) -> None:
        """Nothing added yet."""
        self._from, self._mean = reference.astype(np.float64), WeightedMean()
        if self._m is None or self._v is None:
            self._m, self._v = np.zeros(len(reference)), np.full(len(reference), self.tau**2)

    def add(self, theta: Float, examples: int) -> None:
        """Add `examples` times theta."""
        self._mean.add(theta, examples)

    def finish(self) -> Float:
        """Move by Adam's step."""
        assert self._m is not None
        assert self._v is not None
        move = self._mean.value() - self._from
        self._m = self.beta1 * self._m + (1 - self.beta1) * move
        self._v = self.beta2 * self._v + (1 - self.beta2) * move**2
        return (self._from + self.lr * self._m / (np.sqrt(self._v) + self.tau)).astype(np.float32)

    def state(self) -> Mapping[str, Any]:
        """Both moments, once there are any."""
        return {} if self._m is None else {"m": self._m, "v": self._v}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over both moments, or none."""
        self._m, self._v = state.get("m"), state.get("v")
