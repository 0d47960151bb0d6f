"""Streams whose changes are known: made ones of every kind, and two real ones with the changes that were recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgessl.device.drift.statistics import input_statistics

DIM, FEATURES, CLUSTERS = 16, 8, 5
SHIFT = 1.0  # of a quarter of the features, in standard deviations of a cluster


@dataclass(frozen=True, eq=False)
class DriftStream:
    """Embeddings (N, D) float32, input statistics (N, S), and the truth that no detector is told.

    `changes`: (first, last + 1) sample of each change; a sudden one has length 1. `contexts` (N,): which regime a
    sample is of, -1 while one changes into another.
    """

    z: NDArray[np.float32]
    statistics: NDArray[np.float64]
    changes: list[tuple[int, int]]
    contexts: NDArray[np.int64]


class World:
    """Raw features in clusters, and a fixed random network that embeds them; `shift` moves two of eight features."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 7])
        self._centres = 1.5 * self.rng.normal(size=(CLUSTERS + 1, FEATURES))
        self._first = self.rng.normal(size=(FEATURES, 32)) / np.sqrt(FEATURES)
        self._second = self.rng.normal(size=(32, DIM)) / np.sqrt(32)
        self._moved = np.zeros(FEATURES)
        self._moved[self.rng.permutation(FEATURES)[: FEATURES // 4]] = SHIFT

    def raw(self, clusters: NDArray[np.int64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """A sample (N, 8) of each cluster, moved `shift` (N,) times."""
        noise = self.rng.normal(size=(len(clusters), FEATURES))
        return np.asarray(self._centres[clusters] + noise + shift[:, None] * self._moved)

    def stream(
        self, clusters: NDArray[np.int64], shift: NDArray[np.float64], changes: list[tuple[int, int]]
    ) -> DriftStream:
        """The stream of these clusters and shifts; the contexts are what lies between the changes."""
        raw = self.raw(clusters, shift)
        hidden = np.tanh(raw @ self._first) @ self._second
        z = (hidden / np.linalg.norm(hidden, axis=1, keepdims=True)).astype(np.float32)
        contexts = np.zeros(len(raw), np.int64)
        for k, (first, last) in enumerate(changes):
            contexts[last:] = k + 1
            contexts[first : last - 1] = -1
        return DriftStream(z, raw, changes, contexts)

    def any(self, n: int) -> NDArray[np.int64]:
        """`n` clusters at random, the last one never."""
        return np.asarray(self.rng.integers(CLUSTERS, size=n))


def stationary(seed: int) -> DriftStream:
    """Nothing changes: every alarm is false."""
    world = World(seed)
    return world.stream(world.any(4000), np.zeros(4000), [])


def bursts(seed: int) -> DriftStream:
    """Nothing changes, but samples of a cluster come 20 at a time on average, as activities do."""
    world = World(seed)
    stay = world.rng.random(4000) > 1 / 20
    clusters = world.any(4000)
    for i in range(1, 4000):
        clusters[i] = clusters[i - 1] if stay[i] else clusters[i]
    return world.stream(clusters, np.zeros(4000), [])


def sudden(seed: int) -> DriftStream:
    """Two features move by one standard deviation at sample 1500."""
    world = World(seed)
    return world.stream(world.any(3000), (np.arange(3000) >= 1500).astype(float), [(1500, 1501)])


def gradual(seed: int) -> DriftStream:
    """From 1500 to 2000 ever more samples are of the new regime."""
    world = World(seed)
    chance = np.clip((np.arange(3000) - 1500) / 500, 0, 1)
    return world.stream(world.any(3000), (world.rng.random(3000) < chance).astype(float), [(1500, 2000)])


def incremental(seed: int) -> DriftStream:
    """From 1500 to 2500 the features wander, twice as far in all."""
    world = World(seed)
    return world.stream(world.any(3500), 2 * np.clip((np.arange(3500) - 1500) / 1000, 0, 1), [(1500, 2500)])


def new_cluster(seed: int) -> DriftStream:
    """From 1500 on every third sample is of a cluster never seen before."""
    world = World(seed)
    new = (np.arange(3000) >= 1500) & (world.rng.random(3000) < 1 / 3)
    return world.stream(np.where(new, CLUSTERS, world.any(3000)), np.zeros(3000), [(1500, 1501)])


def recurring(seed: int) -> DriftStream:
    """Two regimes in turn, 600 samples each: A B A B A."""
    world = World(seed)
    turn = np.arange(3000) // 600
    found = world.stream(world.any(3000), np.where(turn % 2, 1.5, 0.0), [(k * 600, k * 600 + 1) for k in range(1, 5)])
    return DriftStream(found.z, found.statistics, found.changes, turn % 2)


def gas_shuffled(seed: int) -> DriftStream:
    """Gas sensors over 36 months (shared:gas_drift), 8 batches, shuffled within each; features stand for embeddings."""
    return _gas(seed, shuffled=True)


def gas_recorded(seed: int) -> DriftStream:
    """The same as recorded: within a batch almost sorted by gas, so that a change of gas is a change too."""
    return _gas(seed, shuffled=False)


def _gas(seed: int, shuffled: bool) -> DriftStream:
    from edgessl.data.shared import read_members

    found = read_members("gas_drift", "x", "batch")
    batch, rng = found["batch"], np.random.default_rng(seed)
    rows = np.arange(len(batch))
    if shuffled:
        rows = np.concatenate([rng.permutation(rows[batch == b]) for b in np.unique(batch)])
    x = found["x"][rows].astype(np.float64)
    first = x[batch[rows] == 1]
    scaled = np.clip((x - first.mean(0)) / first.std(0), -10, 10)
    contexts = np.searchsorted(np.unique(batch), batch[rows])
    starts = np.flatnonzero(np.diff(contexts)) + 1
    return DriftStream(scaled.astype(np.float32), x, [(int(s), int(s) + 1) for s in starts], contexts)


def phone_watch(seed: int) -> DriftStream:
    """Phone, watch, phone: 1,000 shuffled windows each (shared:har_phone_watch); statistics stand for embeddings."""
    from edgessl.data.shared import load_shared

    rng, parts = np.random.default_rng(seed), []
    windows = {name: load_shared("har_phone_watch", device=name).train for name in ("phone", "watch")}
    order = rng.permutation(len(windows["phone"]))
    for k, name in enumerate(("phone", "watch", "phone")):
        rows = order[:1000] if k == 0 else order[1000:2000] if k == 2 else rng.permutation(len(windows[name]))[:1000]
        parts.append(input_statistics(windows[name].take(np.sort(rows))[rng.permutation(1000)]))
    statistics = np.concatenate(parts)
    z = (statistics - parts[0].mean(0)) / parts[0].std(0)
    return DriftStream(z.astype(np.float32), statistics, [(1000, 1001), (2000, 2001)], np.repeat([0, 1, 0], 1000))


MADE: dict[str, Callable[[int], DriftStream]] = {
    "stationary": stationary,
    "bursts": bursts,
    "sudden": sudden,
    "gradual": gradual,
    "incremental": incremental,
    "new_cluster": new_cluster,
    "recurring": recurring,
}
REAL: dict[str, Callable[[int], DriftStream]] = {
    "gas_shuffled": gas_shuffled,
    "gas_recorded": gas_recorded,
    "phone_watch": phone_watch,
}
