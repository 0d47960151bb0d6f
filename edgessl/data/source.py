"""What every reader gives: samples without labels, read by index and never the whole set at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import DataError, InputError

Kind = Literal["image", "signal", "spectrogram", "tokens", "pair", "features"]

# Values held in float64 at once while statistics stream: 16 MB.
_STATISTICS_VALUES = 1 << 21


@runtime_checkable
class Source(Protocol):
    """N samples of one shape.

    kind: "image" (C,H,W) in [0,1], "signal" (C,T) in physical units, "spectrogram" (C,F,T), "tokens" (1,L): ids,
        see tokens.TokenSource; "pair" (n,): two samples flattened, see pairs.PairedSource;
        "features" (n,): numbers that describe something, each a channel of its own.
    shape: shape of one sample, channels first.  units: of the values, in words.
    labels: int64 (N,) or None, -1 where unknown; for evaluation only, pretraining never reads them.
    timestamps: float64 (N,) or None, seconds; where a sample starts on its own recording's clock.
    """

    @property
    def kind(self) -> Kind:
        """What a sample is."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, channels first."""
        ...

    @property
    def units(self) -> str:
        """Units of the values, in words."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Classes (N,), -1 where unknown; for evaluation only."""
        ...

    @property
    def timestamps(self) -> NDArray[np.float64] | None:
        """Seconds (N,)."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read samples `indices` (integers in [0, N), repeats allowed): float32 (len(indices), *shape).

        C-contiguous and the caller's own. InputError for a wrong index, DataError for a bad file or a
        value that is not finite.
        """
        ...


@dataclass(frozen=True, eq=False)
class Subset:
    """The samples `indices` of `source`, in that order; nothing is copied."""

    source: Source
    indices: NDArray[np.int64]
    kind: Kind = field(init=False)
    shape: tuple[int, ...] = field(init=False)
    units: str = field(init=False)
    labels: NDArray[np.int64] | None = field(init=False)
    timestamps: NDArray[np.float64] | None = field(init=False)

    def __post_init__(self) -> None:
        chosen = checked_indices(self.indices, len(self.source))
        labels, times = self.source.labels, self.source.timestamps
        for name, value in (
            ("indices", chosen),
            ("kind", self.source.kind),
            ("shape", self.source.shape),
            ("units", self.source.units),
            ("labels", None if labels is None else labels[chosen]),
            ("timestamps", None if times is None else times[chosen]),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read samples by their place in the subset; see Source.take."""
        return self.source.take(self.indices[checked_indices(indices, len(self))])


def batches(source: Source, size: int) -> Iterator[NDArray[np.float32]]:
    """All samples in order, `size` at a time; the last batch may be smaller."""
    if size < 1:
        raise InputError(f"batch size is {size}; give 1 or more")
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of n, the order of one epoch: a function of its arguments alone, so that runs resume."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def channel_statistics(
    source: Source, limit: int = 4096, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel, float64 (C,), streamed over at most `limit` random samples.

    Batches are merged by Chan, Golub and LeVeque (1979). A channel that does not vary (std <= 1e-6 |mean|)
    gets std 1, so that normalising shifts it and leaves its scale alone instead of dividing by nothing.
    Token ids are names: mean 0, std 1. A pair has figures per value, its two sides' own.
    """
    if source.kind == "tokens":
        return np.zeros(1), np.ones(1)
    if source.kind == "pair":
        from edgessl.data.pairs import pair_statistics

        return pair_statistics(source, limit, seed)
    n, channels = len(source), source.shape[0]
    if n == 0 or limit < 1:
        raise DataError(f"statistics need samples: the source has {n}, limit is {limit}")
    chosen = np.arange(n)
    if n > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))
    step = max(1, _STATISTICS_VALUES // int(np.prod(source.shape)))
    count = 0
    mean, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(chosen), step):
        values = source.take(chosen[start : start + step]).astype(np.float64)
        values = np.moveaxis(values, 1, 0).reshape(channels, -1)
        size = values.shape[1]
        part = values.mean(axis=1)
        delta = part - mean
        squares += ((values - part[:, None]) ** 2).sum(axis=1) + delta**2 * (count * size / (count + size))
        mean += delta * (size / (count + size))
        count += size
    std = np.sqrt(squares / count)
    std[std <= 1e-6 * np.abs(mean)] = 1.0
    return mean, std


def content_hash(source: Source, limit: int = 256) -> str:
    """A sha256 (hex) over the source's facts and at most `limit` evenly spaced samples, labels left out.

    For provenance: it tells two data sets apart, and does not prove that every sample is the same.
    """
    n = len(source)
    digest = hashlib.sha256(f"{source.kind} {source.shape} {source.units} {n}".encode())
    for index in np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64)):
        digest.update(source.take(np.array([index])).astype("<f4").tobytes())
    return digest.hexdigest()


def checked_indices(indices: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Indices as int64 (M,); InputError unless they are one-dimensional integers in [0, n)."""
    chosen = np.asarray(indices)
    if chosen.size == 0 and chosen.ndim == 1:
        return np.zeros(0, np.int64)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise InputError(f"indices are {chosen.dtype} of shape {chosen.shape}; give a vector of integers")
    if chosen.min() < 0 or chosen.max() >= n:
        raise InputError(f"index {chosen.min() if chosen.min() < 0 else chosen.max()} is outside 0..{n - 1}")
    return chosen.astype(np.int64)


def checked_labels(labels: NDArray[Any], n: int, name: str) -> NDArray[np.int64]:
    """Labels as int64 (n,); DataError naming `name` unless they are n integers."""
    if labels.shape != (n,) or labels.dtype.kind not in "iub":
        raise DataError(f"{name}: labels are {labels.dtype} of shape {labels.shape}; expected {n} integers")
    return labels.astype(np.int64)


def float_samples(raw: NDArray[Any], name: str, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """`raw` (N, ...) as contiguous float32; DataError names the first sample that is not finite."""
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf and is refused below
        values = np.array(raw, dtype=np.float32, order="C")
    if raw.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        raise DataError(
            f"{name}: sample {indices[bad]} holds a value that is not a finite float32 (NaN, infinity or too"
            " large); repair or remove that sample"
        )
    return values
