"""How soon drift is noticed, and how often wrongly: every detector on streams whose changes are known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgessl.bench.drift.streams import MADE, REAL, DriftStream
from edgessl.device.drift.monitor import DriftMonitor
from edgessl.device.drift.statistics import Scale
from edgessl.device.drift.tests import Adwin, Cusum, PageHinkley
from edgessl.device.drift.windows import WindowTest
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

WARMUP = 64  # samples that set a reference, at the start and after every alarm
GRACE = 300  # samples after a change in which further alarms are neither right nor wrong
PATIENCE = 1000  # an alarm later than this after a change has missed it
Row = dict[str, Any]


class Detector(Protocol):
    """Watches a stream sample by sample."""

    def update(self, z: NDArray[np.float32], raw: NDArray[np.float64]) -> bool:
        """Take an embedding (D,) and input statistics (S,); True at an alarm."""


class OfDistance:
    """A test of one number: the distance to the mean of the reference, in units of its spread."""

    def __init__(self, test: Callable[[], Any], span: float = 0.0) -> None:
        self._make, self._span, self._early = test, span, []  # type: ignore[var-annotated]

    def update(self, z: NDArray[np.float32], raw: NDArray[np.float64]) -> bool:
        """See Detector."""
        if len(self._early) < WARMUP:
            self._early.append(z.astype(np.float64))
            if len(self._early) == WARMUP:
                early = np.array(self._early)
                self._mean, self._scale, self._test = early.mean(0), Scale(1, 1 / 512), self._make()
                for distance in np.linalg.norm(early - self._mean, axis=1) * WARMUP / (WARMUP - 1):
                    self._scale.update(distance)
            return False
        distance = float(np.linalg.norm(z - self._mean))
        score = float(self._scale.score(distance)[0])
        if self._span:  # ADWIN wants values that span 1
            score = min(max(score / self._span + 0.5, 0.0), 1.0)
        if self._test.update(score):
            self._early = []
            return True
        self._scale.update(distance)
        self._mean += (z - self._mean) / 512
        return False


class OfWindow:
    """The latest 64 embeddings against the reference's 64."""

    def __init__(self, kernel: str) -> None:
        self._kernel, self._early = kernel, []  # type: ignore[var-annotated]

    def update(self, z: NDArray[np.float32], raw: NDArray[np.float64]) -> bool:
        """See Detector."""
        if len(self._early) < WARMUP:
            self._early.append(z)
            if len(self._early) == WARMUP:
                self._test = WindowTest(len(z), self._kernel)
                self._test.refer(np.array(self._early))
            return False
        if self._test.update(z):
            self._early = []
            return True
        return False


class OfInput:
    """CUSUM of every input statistic."""

    def __init__(self) -> None:
        self._scale: Scale | None = None

    def update(self, z: NDArray[np.float32], raw: NDArray[np.float64]) -> bool:
        """See Detector."""
        if self._scale is None:
            self._scale, self._test = Scale(len(raw), 1 / 512), Cusum(len(raw))
        if self._scale.count >= WARMUP and self._test.update(self._scale.score(raw)):
            self._scale = None
            return True
        self._scale.update(raw)
        return False


class Everything:
    """The monitor that a Learner has, without the training loss."""

    def __init__(self) -> None:
        self.monitor: DriftMonitor | None = None

    def update(self, z: NDArray[np.float32], raw: NDArray[np.float64]) -> bool:
        """See Detector."""
        self.monitor = self.monitor or DriftMonitor(len(z), len(raw))
        return self.monitor.update(z[None], raw[None])


DETECTORS: dict[str, Callable[[], Detector]] = {
    "cusum": lambda: OfDistance(Cusum),
    "page_hinkley": lambda: OfDistance(lambda: PageHinkley(delta=0.5, threshold=12.0)),
    "adwin": lambda: OfDistance(Adwin, span=16.0),
    "mmd": lambda: OfWindow("gaussian"),
    "energy": lambda: OfWindow("energy"),
    "input_cusum": OfInput,
    "monitor": Everything,
}


def run(
    streams: Sequence[str] = (*MADE, *REAL),
    detectors: Sequence[str] = tuple(DETECTORS),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Delay and false alarms of drift detectors, a row for each stream and detector.

    Args:
        streams: names of drift_streams.MADE and REAL; a real one whose data are not there is named in `skipped`.
        detectors: names of DETECTORS.
        seeds: of the streams.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "rows", "skipped"}. A row: stream, detector, seeds; `changes` (in
        all), `detected` (share of them), `delay_mean`, `delay_std` (over seeds of the mean delay in samples from the
        beginning of a change; None when none was noticed), `false_alarms_per_10000` (of the samples that belong to no
        change), `known_again` (monitor only: share of returns to an earlier context that were recognised; None
        without such), `us_per_sample` (of processor time).

    Raises:
        ConfigError: an unknown stream or detector, or no seed.
    """
    for what, names, known in (("stream", streams, {**MADE, **REAL}), ("detector", detectors, DETECTORS)):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"unknown {what} {unknown[0]!r}; choose some of {', '.join(known)}")
    if not seeds:
        raise ConfigError("seeds: expected one or more, found none")
    rows, skipped = [], []
    for stream in streams:
        try:
            made = [{**MADE, **REAL}[stream](seed) for seed in seeds]
        except DataError as error:
            skipped.append(f"{stream}: {error}")
            continue
        for name in detectors:
            progress(f"{stream}: {name}")
            rows.append(_row(stream, name, made, list(seeds)))
    return {
        "bench": "drift",
        "machine": machine(),
        "versions": versions(),
        "settings": {"warmup": WARMUP, "grace": GRACE, "patience": PATIENCE},
        "rows": rows,
        "skipped": skipped,
    }


def _row(stream: str, name: str, made: list[DriftStream], seeds: list[int]) -> Row:
    delays: list[list[int]] = []
    changes = false = stable = 0
    again: list[bool] = []
    began = time.process_time()
    for one in made:
        detector = DETECTORS[name]()
        alarms = [i for i, (z, raw) in enumerate(zip(one.z, one.statistics, strict=True)) if detector.update(z, raw)]
        found, wrong, length = judge(alarms, one.changes, len(one.z))
        delays.append(found)
        changes, false, stable = changes + len(one.changes), false + wrong, stable + length
        if name == "monitor":
            again += known_again(one)
    took = time.process_time() - began
    means = [statistics.mean(found) for found in delays if found]
    return {
        "stream": stream,
        "detector": name,
        "seeds": seeds,
        "changes": changes,
        "detected": round(sum(map(len, delays)) / changes, 3) if changes else None,
        "delay_mean": round(statistics.mean(means), 1) if means else None,
        "delay_std": round(statistics.stdev(means), 1) if len(means) > 1 else None,
        "false_alarms_per_10000": round(1e4 * false / stable, 2),
        "known_again": round(statistics.mean(again), 3) if again else None,
        "us_per_sample": round(1e6 * took / sum(len(one.z) for one in made), 1),
    }


def judge(alarms: Sequence[int], changes: Sequence[tuple[int, int]], length: int) -> tuple[list[int], int, int]:
    """Delays of the changes that were noticed, number of false alarms, number of samples where an alarm is false.

    The first alarm from the beginning of a change on, at most PATIENCE samples after it and before the next change,
    notices it. What comes before the end of a change and GRACE samples more is not false; everything else is.
    """
    delays, quiet = [], np.ones(length, np.bool_)
    starts = [first for first, _ in changes] + [length]
    for (first, last), following in zip(changes, starts[1:], strict=True):
        inside = [a for a in alarms if first <= a < min(following, first + PATIENCE)]
        if inside:
            delays.append(inside[0] - first)
        quiet[first : max(last + GRACE, inside[0] if inside else 0)] = False
    quiet[:WARMUP] = False
    return delays, sum(bool(quiet[a]) for a in alarms), int(quiet.sum())


def known_again(stream: DriftStream) -> list[bool]:
    """For each return to an earlier context: whether the monitor, at the end of the visit, gives it its old number."""
    detector, found = Everything(), []
    numbers: dict[int, int] = {}
    ends = [first for first, _ in stream.changes] + [len(stream.z)]
    if len({int(stream.contexts[end - 1]) for end in ends}) == len(ends):
        return []
    for i, (z, raw) in enumerate(zip(stream.z, stream.statistics, strict=True)):
        detector.update(z, raw)
        if i + 1 in ends and detector.monitor is not None:
            truth, number = int(stream.contexts[i]), detector.monitor.context
            if truth in numbers:
                found.append(number == numbers[truth])
            else:
                numbers[truth] = number
    return found
