"""Central differential privacy: the server, which is trusted, releases no more than noise around the fleet's mean.

McMahan et al., "Learning differentially private recurrent language models", ICLR 2018, arXiv 1710.06963: changes
clipped to a norm, a mean with a fixed denominator, one Gaussian per round. Flower's
DifferentialPrivacyServerSideFixedClipping holds all replies in memory; this takes them one by one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from edgessl.errors import FederationError
from federated.message import Update
from federated.privacy.budget import GaussianPrivacy, Ledger
from federated.privacy.gaussian import Double, clip, noise
from federated.strategies.base import Float, Stateful, Streaming


class CentralPrivacy(Streaming):
    """Gives a streaming strategy the noisy mean as if it were the one reply.

    Every device counts alike, whatever number of examples it claims; the sum of clipped changes and of noise is divided
    by `cohort`, the replies that a round expects, so that neither a late device nor a missing one changes anybody
    else's share. A device's presence in the whole run is (epsilon, delta)-private in all weights that are released
    (add or remove one device; no amplification by sampling is claimed). The metrics that devices send are not covered.
    """

    def __init__(
        self,
        strategy: Streaming,
        privacy: GaussianPrivacy,
        *,
        cohort: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        if cohort < 1:
            raise FederationError(f"cohort must be at least 1, found {cohort}")
        self.inner, self._privacy, self._cohort, self._rng = strategy, privacy, cohort, rng
        self.ledger = Ledger(privacy, "the fleet's privacy budget")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """As any streaming strategy; FederationError, before a device is asked, when the budget is spent."""
        self.ledger.check()
        return super().configure_train(server_round, arrays, config, grid)

    def begin(self, number: int, reference: Float) -> None:
        """Nothing added yet."""
        self.inner.begin(number, reference)
        self._reference = reference
        self._sum: Double = np.zeros(len(reference))

    def add(self, theta: Float, examples: int) -> None:
        """Add the clipped change."""
        self._sum += clip(theta.astype(np.float64) - self._reference, self._privacy.clipping_norm)

    def add_total(self, total: Double) -> None:
        """Add a sum of changes (P,) that the devices have clipped themselves."""
        self._sum += total

    def finish(self) -> Float:
        """The strategy's answer to the noisy mean."""
        self.ledger.spend()
        deviation = self._privacy.noise_multiplier * self._privacy.clipping_norm
        mean = (self._sum + noise(len(self._sum), deviation, self._rng)) / self._cohort
        self.inner.add((self._reference + mean).astype(np.float32), self._cohort)
        return self.inner.finish()

    def aggregate(
        self, number: int, reference: Float, updates: Iterable[Update]
    ) -> tuple[Float | None, dict[str, float]]:
        """As `Streaming.aggregate`; the metrics say what is spent."""
        theta, metrics = super().aggregate(number, reference, updates)
        return theta, metrics | self.spent()

    @property
    def clipping_norm(self) -> float:
        """The Euclidean length to which a device's change is cut."""
        return self._privacy.clipping_norm

    def spent(self) -> dict[str, float]:
        """What is spent, as metrics."""
        return {"epsilon": self.ledger.epsilon, "delta": self._privacy.delta}

    def state(self) -> Mapping[str, Any]:
        """The ledger's, and the strategy's where it has one."""
        inner = self.inner.state() if isinstance(self.inner, Stateful) else {}
        return {**inner, **self.ledger.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.ledger.load_state(state)
        if isinstance(self.inner, Stateful):
            self.inner.load_state({name: v for name, v in state.items() if name not in self.ledger.state()})
