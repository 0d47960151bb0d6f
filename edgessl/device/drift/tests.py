"""Change detectors on one number at a time: CUSUM, Page-Hinkley and ADWIN. docs/drift.md says which to use when."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError

Vector = npt.NDArray[np.float64]


class Cusum:
    """Two-sided tabular CUSUM on standardised values (mean 0, spread 1 while nothing changes), `width` at a time.

    Alarms when the cumulated excess of any over `tolerance`, up or down, passes `threshold`; both are in standard
    deviations. A single value counts for at most `clip`, less than the threshold: one outlier is no drift. With
    `width` values the threshold grows by log(width), which keeps the false alarms of all together about those of one
    (the time to a false alarm grows as exp(2 tolerance threshold)). E. S. Page, "Continuous inspection schemes",
    Biometrika 1954. A known mean makes it the Page-Hinkley test. O(width) a value, 2 numbers a value kept.
    """

    def __init__(self, width: int = 1, tolerance: float = 0.5, threshold: float = 12.0, clip: float = 8.0) -> None:
        self.tolerance, self.threshold, self.clip = tolerance, threshold + math.log(width), clip
        self._sums = np.zeros((2, width), np.float64)

    def update(self, value: float | Vector) -> bool:
        """Take one value, or one of each (width,); True when they complete the evidence (it then starts afresh)."""
        clipped = np.clip(value, -self.clip, self.clip)
        self._sums[0] += clipped - self.tolerance
        self._sums[1] -= clipped + self.tolerance
        np.maximum(self._sums, 0, out=self._sums)
        if self._sums.max(initial=0) <= self.threshold:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Forget the evidence."""
        self._sums[:] = 0

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"sums": self._sums}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._sums[...] = tensors["sums"]


class PageHinkley:
    """Two-sided Page-Hinkley test on values of any scale, against their running mean.

    D. V. Hinkley, "Inference about the change-point from cumulative sum tests", Biometrika 1971: alarms when the sum
    of (value - mean - delta), forgotten with `alpha`, has risen by more than `threshold` from its lowest point, or
    fallen likewise. Nothing in the first `least` values. Afterwards it starts afresh. O(1).
    """

    def __init__(self, delta: float = 0.005, threshold: float = 50.0, alpha: float = 0.9999, least: int = 30) -> None:
        self.delta, self.threshold, self.alpha, self.least = delta, threshold, alpha, least
        self._state = np.zeros(6, np.float64)  # count, mean, rising sum and its lowest, falling sum and its highest

    def update(self, value: float) -> bool:
        """Take one value; True when it completes the evidence of a change."""
        count, mean, rise, lowest, fall, highest = self._state
        count += 1
        mean += (value - mean) / count
        rise = self.alpha * rise + (value - mean - self.delta)
        fall = self.alpha * fall + (value - mean + self.delta)
        lowest, highest = min(lowest, rise), max(highest, fall)
        self._state[:] = count, mean, rise, lowest, fall, highest
        if count < self.least or max(rise - lowest, highest - fall) <= self.threshold:
            return False
        self._state[:] = 0
        return True

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"state": self._state}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._state[...] = tensors["state"]


class Adwin:
    """A window that is as long as the values in it agree: ADWIN2 of Bifet & Gavalda, SDM 2007.

    `update` is True when an older part was dropped because its mean differs from the rest's by more than chance
    allows at confidence 1 - `delta` (their bound with the variance, stated for values that span at most 1). The
    window is an exponential histogram: at most ROW buckets of each size 1, 2, 4, ..., 2^(LEVELS-1), then the oldest
    go. Cuts are looked for every `clock` values: O(log window) amortised, ROW x LEVELS x 2 numbers kept.
    """

    ROW, LEVELS = 5, 24
    SHORTEST = 5  # values on either side of a cut
    GRACE = 10  # values before the first search

    def __init__(self, delta: float = 0.002, clock: int = 32) -> None:
        if not 0 < delta < 1:
            raise ConfigError(f"ADWIN: expected delta between 0 and 1, found {delta}")
        self.delta, self.clock = delta, clock
        # the oldest bucket of a level first: sum, and sum of squared deviations from the bucket's mean
        self._levels: list[list[tuple[float, float]]] = [[] for _ in range(self.LEVELS)]
        self._ticks = 0

    @property
    def width(self) -> int:
        """Values in the window."""
        return sum(len(level) << i for i, level in enumerate(self._levels))

    @property
    def mean(self) -> float:
        """Of the window; 0 when it is empty."""
        return sum(total for level in self._levels for total, _ in level) / max(self.width, 1)

    def update(self, value: float) -> bool:
        """Take one value; True when the window shrank."""
        self._levels[0].append((value, 0.0))
        for i, level in enumerate(self._levels):
            if len(level) <= self.ROW:
                break
            older = level[:2]
            del level[:2]
            if i + 1 < self.LEVELS:
                self._levels[i + 1].append(_join(1 << i, *older[0], 1 << i, *older[1])[1:])
        self._ticks += 1
        if self._ticks % self.clock or self.width <= self.GRACE:
            return False
        found = False
        while self._cut():
            found = True
            next(level for level in reversed(self._levels) if level).pop(0)
        return found

    def _cut(self) -> bool:
        """Whether some cut of the window separates two means."""
        buckets = [(1 << i, *b) for i in reversed(range(self.LEVELS)) for b in self._levels[i]]
        n, total, squares = buckets[0]
        for bucket in buckets[1:]:
            n, total, squares = _join(n, total, squares, *bucket)
        spread = squares / n
        bound = math.log(2 * math.log(n) / self.delta)
        before, sum_before = 0, 0.0
        for size, value, _ in buckets[:-1]:
            before, sum_before = before + size, sum_before + value
            after = n - before
            if before < self.SHORTEST or after < self.SHORTEST:
                continue
            rate = 1 / (before - self.SHORTEST + 1) + 1 / (after - self.SHORTEST + 1)
            gap = abs(sum_before / before - (total - sum_before) / after)
            if gap > math.sqrt(2 * rate * spread * bound) + 2 / 3 * rate * bound:
                return True
        return False

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        buckets = np.array([b for level in self._levels for b in level], np.float64).reshape(-1, 2)
        counts = np.array([self._ticks, *map(len, self._levels)], np.int64)
        return {"buckets": buckets, "counts": counts}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._ticks, *counts = (int(v) for v in tensors["counts"])
        rest = iter(tensors["buckets"])
        self._levels = [[(float(b[0]), float(b[1])) for _, b in zip(range(n), rest, strict=False)] for n in counts]


def _join(n: int, total: float, squares: float, m: int, more: float, other: float) -> tuple[int, float, float]:
    """Count, sum and sum of squared deviations of two parts together."""
    return n + m, total + more, squares + other + n * m / (n + m) * (total / n - more / m) ** 2
