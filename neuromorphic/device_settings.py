"""What a spiking device is bound to: its settings, checked, and the queue of samples that wait to be learned from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.errors import BudgetError, ConfigError
from neuromorphic.network import IntegerNetwork
from neuromorphic.plastic import plastic_names

Array = np.ndarray[Any, np.dtype[Any]]
WATCHED = 32  # learned samples over which the firing rate is judged


@dataclass(frozen=True)
class Settings:
    """What a state directory is bound to, the network apart.

    Attributes:
        steps: time steps of a sample.
        population: whose mean spikes are the embedding.
        bins: parts of the time, each with a mean of its own.
        queue_bytes: for samples that wait to be learned from, packed to bits; the oldest falls out.
        prototypes: of the read-out, at most.
        novelty: cosine below which the read-out takes a new prototype.
        rates: least and largest mean rate of the population over WATCHED learned samples; outside, learning is undone.
    """

    steps: int
    population: str
    bins: int = 1
    queue_bytes: int = 1 << 20
    prototypes: int = 64
    novelty: float = 0.8
    rates: tuple[float, float] = (1e-4, 0.6)

    def check(self, network: IntegerNetwork) -> None:
        """Refuse a network or numbers that do not fit.

        Raises:
            ConfigError: nothing to learn, no such population, a number out of range, or a first input with payloads.
            BudgetError: queue_bytes do not hold a sample.
        """
        names = [p.name for p in network.populations]
        if not plastic_names(network):
            raise ConfigError(
                "this network has no plastic connection, so there is nothing to learn; see neuromorphic.local"
            )
        if self.population not in names:
            raise ConfigError(f"population {self.population!r} is not there; there are {', '.join(names)}")
        if not 1 <= self.bins <= self.steps:
            raise ConfigError(f"expected 1 <= bins <= steps, found {self.bins} and {self.steps}")
        if not 0 <= self.rates[0] < self.rates[1] <= 1:
            raise ConfigError(f"rates must be a range within 0..1, found {self.rates}")
        if network.inputs[0].payload_bits:
            raise ConfigError(f"the input {network.inputs[0].name!r} must be binary to be kept as bits")
        one = packed_bytes(self.steps, network.inputs[0].size)
        if self.queue_bytes < one:
            raise BudgetError(f"queue_bytes = {self.queue_bytes}, one sample takes {one}; give that or more")


class Pending:
    """Samples (steps, n) of 0 and 1 that wait, packed to bits; the oldest falls out when the bytes are full.

    Attributes:
        dropped: how many fell out.
    """

    def __init__(self, steps: int, channels: int, max_bytes: int) -> None:
        self.shape, self.dropped = (steps, channels), 0
        self._most = max_bytes // packed_bytes(steps, channels)
        self._last = -1  # the recording that the latest sample came from
        self._waiting: deque[tuple[Array, bool]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sample: Array, recording: int) -> None:
        """Keep a sample; whether it goes on where the one before ended is known by `recording`, -1 for none."""
        self._waiting.append((np.packbits(sample), recording >= 0 and recording == self._last))
        self._last = recording
        if len(self._waiting) > self._most:
            self._waiting.popleft()
            self.dropped += 1

    def take(self) -> tuple[Array, bool]:
        """The oldest sample, and whether it goes on where the one before ended."""
        packed, goes_on = self._waiting.popleft()
        return np.unpackbits(packed, count=self.shape[0] * self.shape[1]).reshape(self.shape), goes_on

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        none = np.zeros((0, packed_bytes(*self.shape)), np.uint8)
        return {
            "samples": np.stack([packed for packed, _ in self._waiting]) if self._waiting else none,
            "goes_on": np.array([goes_on for _, goes_on in self._waiting], np.uint8),
            "counts": np.array([self.dropped, self._last], np.int64),
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what was saved; KeyError or ValueError where it is of another kind."""
        self.dropped, self._last = map(int, tensors["counts"])
        self._waiting = deque(zip(tensors["samples"].copy(), map(bool, tensors["goes_on"]), strict=True))


def packed_bytes(steps: int, channels: int) -> int:
    """Bytes of one sample of 0 and 1."""
    return -(-steps * channels // 8)
