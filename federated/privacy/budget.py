"""How much privacy may be spent, and how much was."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgessl.errors import FederationError
from federated.privacy.gaussian import epsilon


@dataclass(frozen=True)
class GaussianPrivacy:
    """A Gaussian mechanism and its budget.

    Attributes:
        noise_multiplier: standard deviation of the noise over the sensitivity, above 0.
        clipping_norm: Euclidean length to which one device's change of theta is cut.
        delta: failure probability; well below one over the number of devices.
        max_epsilon: what all releases together may cost; the one that would cost more does not happen.
    """

    noise_multiplier: float
    clipping_norm: float
    delta: float
    max_epsilon: float

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clipping_norm", "max_epsilon"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise FederationError(f"{name} must be positive and finite, found {value}")
        if not 0 < self.delta < 1:
            raise FederationError(f"delta must lie in (0, 1), found {self.delta}")
        if self.epsilon(1) > self.max_epsilon:
            raise FederationError(
                f"one release costs epsilon {self.epsilon(1):.3g} and {self.max_epsilon:g} is all there is; "
                "raise noise_multiplier or max_epsilon"
            )

    def epsilon(self, releases: int) -> float:
        """What that many releases cost at `delta`."""
        return epsilon(releases, self.noise_multiplier, self.delta)


class Ledger:
    """Counts releases against a budget; its state is `strategies.base.SPENT`: no rollback gives it back."""

    def __init__(self, privacy: GaussianPrivacy, whose: str) -> None:
        self.privacy, self._whose, self.releases = privacy, whose, 0

    @property
    def epsilon(self) -> float:
        """What was spent."""
        return self.privacy.epsilon(self.releases)

    def check(self) -> None:
        """FederationError when one more release would pass the budget."""
        after = self.privacy.epsilon(self.releases + 1)
        if after > self.privacy.max_epsilon:
            raise FederationError(
                f"{self._whose}: epsilon {self.epsilon:.4g} of {self.privacy.max_epsilon:g} is spent "
                f"(delta {self.privacy.delta:g}, {self.releases} releases); the next would make it {after:.4g}"
            )

    def spend(self) -> None:
        """Count a release, as `check` allows it."""
        self.check()
        self.releases += 1

    def state(self) -> dict[str, Any]:
        """The releases and the noise that they were made with."""
        return {"spent.releases": self.releases, "spent.noise_multiplier": self.privacy.noise_multiplier}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; FederationError for another noise, which has another price."""
        multiplier = float(state.get("spent.noise_multiplier", self.privacy.noise_multiplier))
        if multiplier != self.privacy.noise_multiplier:
            raise FederationError(
                f"{self._whose}: noise_multiplier {multiplier:g} was paid for so far, found "
                f"{self.privacy.noise_multiplier:g}; keep it, or begin with another state directory"
            )
        self.releases = int(state.get("spent.releases", 0))
