"""Models of devices and links for a virtual clock: how long everything takes, and when nobody answers.

    fleet = Fleet.spread(1000, Device(latency_s=0.1, up=125e3, down=1.25e6, compute_s=8, dropout=0.1), seed=0)
    grid = run_local(server, client, 1000, fleet=fleet)

All draws are functions of (seed, device, number of its message), whatever the order in which they are asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from edgessl.errors import FederationError

_SPREAD = ("latency_s", "down", "up", "compute_s")
_TRIP, _LINK, _FLEET = 1, 2, 3  # tell the draws apart


@dataclass(frozen=True)
class Device:
    """One device and its link.

    Attributes:
        poll_s: seconds between two looks for a message.
        latency_s: of the link, one way.
        down, up: bytes per second.
        compute_s: seconds from a message's last byte to the reply's first.
        jitter: sigma of a log-normal factor on latency_s and compute_s, drawn for every message.
        dropout: chance that it dies over a message, which it then never answers.
        online_s, offline_s: mean seconds of its link being up and down in turn, exponential; offline_s 0 for always up.
    """

    poll_s: float = 0.0
    latency_s: float = 0.0
    down: float = math.inf
    up: float = math.inf
    compute_s: float = 0.0
    jitter: float = 0.0
    dropout: float = 0.0
    online_s: float = 3600.0
    offline_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, above = getattr(self, field.name), field.name in ("down", "up", "online_s")
            if not (value > 0 if above else value >= 0):
                bound = "above 0" if above else "0 or more"
                raise FederationError(f"device: {field.name} must be {bound}, found {value}")
        if self.dropout > 1:
            raise FederationError(f"device: dropout is a chance, at most 1, found {self.dropout}")


@dataclass(frozen=True)
class Trip:
    """What chance has in store for one message: seconds that pass, and whether the device dies."""

    poll_s: float
    latency_s: float
    compute_s: float
    dies: bool


class Fleet:
    """Devices by partition, and the server that they share.

    Args:
        devices: one per partition.
        seed: of every draw.
        server_s: seconds of work that each message and each reply is to the server, which does all it has by turns.
        patience_s: seconds after which a device that died is given up: Flower's heartbeats come every 30 s and two of
            them may be missed.
    """

    def __init__(
        self, devices: Sequence[Device], *, seed: int = 0, server_s: float = 0.0, patience_s: float = 60.0
    ) -> None:
        if not devices:
            raise FederationError("a fleet needs at least one device")
        if server_s < 0 or patience_s < 0:
            raise FederationError(f"server_s and patience_s must not be negative, found {server_s} and {patience_s}")
        self.devices, self.seed, self.server_s, self.patience_s = list(devices), seed, server_s, patience_s
        self._links: dict[int, _Link] = {}

    @classmethod
    def spread(
        cls,
        count: int,
        median: Device,
        *,
        sigma: float = 0.5,
        seed: int = 0,
        server_s: float = 0.0,
        patience_s: float = 60.0,
    ) -> "Fleet":
        """`count` devices around `median`: times and bandwidths times log-normal factors of `sigma`."""
        rng = np.random.default_rng([seed, _FLEET])
        factors = np.exp(sigma * rng.standard_normal((count, len(_SPREAD))))
        devices = [
            replace(median, **{name: getattr(median, name) * float(f) for name, f in zip(_SPREAD, row, strict=True)})
            for row in factors
        ]
        return cls(devices, seed=seed, server_s=server_s, patience_s=patience_s)

    def trip(self, partition: int, number: int) -> Trip:
        """The draws of the `number`th message to a device."""
        device = self.devices[partition]
        rng = np.random.default_rng([self.seed, _TRIP, partition, number])
        poll, dies = rng.random(2)
        latency, compute = np.exp(device.jitter * rng.standard_normal(2))
        return Trip(
            float(poll) * device.poll_s,
            float(latency) * device.latency_s,
            float(compute) * device.compute_s,
            bool(dies < device.dropout),
        )

    def reachable(self, partition: int, time: float) -> float:
        """The first instant from `time` on at which the device's link is up."""
        device = self.devices[partition]
        if device.offline_s == 0:
            return time
        if partition not in self._links:
            self._links[partition] = _Link(device, np.random.default_rng([self.seed, _LINK, partition]))
        return self._links[partition].up_from(time)


class _Link:
    """A link that is up and down in turn from time 0 on; drawn as far as it was asked for."""

    def __init__(self, device: Device, rng: np.random.Generator) -> None:
        self._rng, self._means = rng, (device.online_s, device.offline_s)
        starts_up = rng.random() < device.online_s / (device.online_s + device.offline_s)
        self._ends = [0.0] if starts_up else [0.0, 0.0]  # of the stretches so far: down, up, down, up ...

    def up_from(self, time: float) -> float:
        while self._ends[-1] <= time:
            self._ends.append(self._ends[-1] + self._rng.exponential(self._means[len(self._ends) % 2 == 0]))
        stretch = int(np.searchsorted(self._ends, time, side="right"))
        return time if stretch % 2 else self._ends[stretch]
