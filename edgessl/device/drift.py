"""Drift without labels: a standardised distance to a slow mean, watched by a two-sided Page-Hinkley test."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.tensors import Array

Float = npt.NDArray[np.float32]


class PageHinkley:
    """Two-sided Page-Hinkley test on a standardised scalar (mean 0, spread 1 while nothing changes).

    Alarms when the cumulated excess over `tolerance`, up or down, passes `threshold`; both are in standard
    deviations. A single value counts for at most `clip`, less than the threshold: one outlier is no drift.
    E. S. Page, "Continuous inspection schemes", Biometrika 1954. tests/device/test_device_drift.py
    measures the delay and the false alarms of the defaults.
    """

    def __init__(self, tolerance: float = 0.5, threshold: float = 12.0, clip: float = 8.0) -> None:
        self.tolerance, self.threshold, self.clip = tolerance, threshold, clip
        self.up = self.down = 0.0

    def update(self, value: float) -> bool:
        """Take one value; True when it completes the evidence of a change (the test then starts afresh)."""
        value = min(max(value, -self.clip), self.clip)
        self.up = max(0.0, self.up + value - self.tolerance)
        self.down = max(0.0, self.down - value - self.tolerance)
        if max(self.up, self.down) <= self.threshold:
            return False
        self.up = self.down = 0.0
        return True


class DriftMonitor:
    """Watches embeddings: how far each lies from a slow running mean, in units of the usual spread.

    The first `warmup` embeddings set the reference (mean, and mean and spread of the distance to it); after
    that it follows with rate `rate`. A drift event starts a new reference, so that the next change is seen
    from the new regime; `rebase` does so too after the encoder itself has changed.
    """

    def __init__(self, dim: int, warmup: int = 64, rate: float = 1 / 512) -> None:
        self.warmup, self.rate = warmup, rate
        self.test = PageHinkley()
        self.events = 0
        self._mean = np.zeros(dim, np.float64)
        self._distance = np.zeros(2, np.float64)  # mean and variance of the distance
        self._early = np.zeros((warmup, dim), np.float32)
        self._count = 0

    def update(self, z: Float) -> bool:
        """Take embeddings (N, D) in order; True when any of them completes a drift event."""
        return any([self._one(row) for row in z])

    def rebase(self, z: Float) -> None:
        """Make `z` (N, D), embeddings of remembered samples by the changed encoder, the reference.

        Accumulated evidence is kept. Nothing happens while the first reference is still being gathered.
        """
        if self._count < self.warmup or len(z) < 2:
            return
        self._refer(z.astype(np.float64))

    def _one(self, z: Float) -> bool:
        if self._count < self.warmup:
            self._early[self._count] = z
            self._count += 1
            if self._count == self.warmup:
                self._refer(self._early.astype(np.float64))
            return False
        mean, variance = self._distance
        distance = float(np.linalg.norm(z - self._mean))
        event = self.test.update((distance - mean) / max(variance, 1e-12) ** 0.5)
        if event:
            self.events += 1
            self._count = 0
            return True
        self._mean += self.rate * (z - self._mean)
        self._distance[0] += self.rate * (distance - mean)
        self._distance[1] += self.rate * ((distance - mean) ** 2 - variance)
        return False

    def _refer(self, z: npt.NDArray[np.float64]) -> None:
        self._mean = z.mean(0)
        # Each sample pulls the mean towards itself; leaving it out of its own mean undoes that.
        distance = np.linalg.norm(z - self._mean, axis=1) * len(z) / (len(z) - 1)
        self._distance[:] = distance.mean(), distance.var(ddof=1)

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        scalars = [self.test.up, self.test.down, self._count, self.events, *self._distance]
        return {
            "mean": self._mean,
            "early": self._early[: self._count] if self._count < self.warmup else self._early[:0],
            "scalars": np.array(scalars, np.float64),
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        up, down, count, events, *distance = (float(v) for v in tensors["scalars"])
        self.test.up, self.test.down = up, down
        self._count, self.events = int(count), int(events)
        self._distance[:] = distance
        self._mean = np.array(tensors["mean"], np.float64)
        self._early[: len(tensors["early"])] = tensors["early"]
