"""Numbers that a drift monitor watches, and the scale on which they are unusual."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.tensors import Array

Float = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]


GROUPS = 256  # at most so many channels are told apart


def input_statistics(x: Float) -> Vector:
    """What is watched of raw samples (N, C, ...): each channel's mean and standard deviation, float64 (N, 2 C).

    One number a channel, (N, C), when a channel is one number. More than GROUPS channels: neighbours are averaged.
    """
    flat = x.reshape(len(x), x.shape[1], -1).astype(np.float64)
    found = flat[:, :, 0] if flat.shape[2] == 1 else np.concatenate([flat.mean(2), flat.std(2)], 1)
    if found.shape[1] <= GROUPS:
        return found
    starts = np.linspace(0, found.shape[1], GROUPS, endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(starts, found.shape[1]))
    return np.asarray(np.add.reduceat(found, starts, axis=1) / sizes)


def statistics_width(shape: tuple[int, ...]) -> int:
    """How many numbers `input_statistics` gives for a sample of `shape`."""
    return input_statistics(np.zeros((1, *shape), np.float32)).shape[1]


class Scale:
    """Running mean and spread of `width` numbers, which makes them comparable with chance.

    Averages of all at first, then exponential with `rate`. The spread is that of the mean of many: a stream whose
    neighbours resemble each other (lag-1 correlation r) varies more slowly and counts for less, by the factor
    sqrt((1 + r) / (1 - r)) of a first-order autoregressive process; r from 0 to 0.95.
    """

    def __init__(self, width: int, rate: float) -> None:
        self.rate = rate
        self.count = 0
        self._moments = np.zeros((4, width), np.float64)  # mean, variance, lag-1 covariance, last deviation

    def update(self, value: Vector | float) -> None:
        """Take one value of each (width,)."""
        mean, variance, lag, last = self._moments
        self.count += 1
        rate = max(1 / self.count, self.rate)
        deviation = value - mean
        mean += rate * deviation
        variance += rate * ((1 - rate) * deviation**2 - variance)
        lag += rate * (deviation * last - lag)
        last[:] = deviation

    def score(self, value: Vector | float) -> Vector:
        """How unusual a value of each is (width,), in standard deviations."""
        mean, variance, lag, _ = self._moments
        variance = np.maximum(variance, 1e-12)
        r = np.clip(lag / variance, 0, 0.95)
        return np.asarray((value - mean) / np.sqrt(variance * (1 + r) / (1 - r)))

    def refer(self, mean: Vector | float, variance: Vector | float) -> None:
        """Take over another mean and variance; the lag-1 correlation stays."""
        r = self._moments[2] / np.maximum(self._moments[1], 1e-12)
        self._moments[0], self._moments[1], self._moments[2], self._moments[3] = mean, variance, r * variance, 0

    def reset(self) -> None:
        """Forget everything."""
        self.count = 0
        self._moments[:] = 0

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"moments": self._moments, "count": np.array([self.count], np.int64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._moments[...], self.count = tensors["moments"], int(tensors["count"][0])
