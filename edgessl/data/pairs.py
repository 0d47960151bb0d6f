"""Pairs: two sources whose samples belong together, one by one, as one source of flat vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import Kind, Source, Subset, channel_statistics, checked_indices
from edgessl.errors import DataError


@dataclass(frozen=True, eq=False)
class PairedSource:
    """Sample i is `first`'s sample i, flattened, followed by `second`'s: shape (n,), kind "pair".

    A label that the two disagree on is -1; where one side has none, the other's are taken. Timestamps are the first's.
    The encoder "pair" takes the two shapes as its options; DataError unless both have the same number of samples.
    """

    first: Source
    second: Source
    kind: Kind = field(default="pair", init=False)
    shape: tuple[int, ...] = field(init=False)
    units: str = field(init=False)
    labels: NDArray[np.int64] | None = field(init=False)
    timestamps: NDArray[np.float64] | None = field(init=False)

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second):
            raise DataError(f"pairs: {len(self.first)} samples on one side, {len(self.second)} on the other")
        n = math.prod(self.first.shape) + math.prod(self.second.shape)
        for name, value in (
            ("shape", (n,)),
            ("units", f"{self.first.units} | {self.second.units}"),
            ("labels", _agreed(self.first.labels, self.second.labels)),
            ("timestamps", self.first.timestamps),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read pairs; see Source.take."""
        chosen = checked_indices(indices, len(self))
        sides = [side.take(chosen).reshape(len(chosen), -1) for side in (self.first, self.second)]
        return np.concatenate(sides, axis=1)


def sides(source: Source) -> tuple[Source, Source]:
    """The two sides of a source of pairs, also of a subset of one; DataError for any other source."""
    if isinstance(source, PairedSource):
        return source.first, source.second
    if isinstance(source, Subset):
        first, second = sides(source.source)
        return Subset(first, source.indices), Subset(second, source.indices)
    raise DataError(f"pairs come as a PairedSource, which knows its two sides; found {type(source).__name__}")


def pair_statistics(source: Source, limit: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and std of every value of a pair, float64 (n,): those of its channel on its own side.

    Per value alone, a pixel that hardly ever varies would be blown up.
    """
    means, stds = [], []
    for side in sides(source):
        mean, std = channel_statistics(side, limit, seed)
        values = math.prod(side.shape[1:])  # of each channel
        means.append(np.repeat(mean, values))
        stds.append(np.repeat(std, values))
    return np.concatenate(means), np.concatenate(stds)


def _agreed(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    if a is None or b is None:
        return b if a is None else a
    return np.where(a == b, a, -1)
