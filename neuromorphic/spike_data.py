"""Where spikes come from: a data source through an encoder, or an event camera's own events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgessl.data import open_source
from edgessl.data.optional import call_with_options
from edgessl.data.shared import read_members
from edgessl.data.source import Source, checked_indices
from edgessl.errors import ConfigError
from neuromorphic.spike_encoders import DEFAULT_ENCODERS, Encoder, build_encoder

Array = np.ndarray[Any, np.dtype[Any]]
EVENT_SIDE = 34  # pixels of the N-MNIST sensor's crop
SPEECH, MEL_BANDS = ("fsdd", "speech_commands"), 20
EVENTS = "events"  # the encoder's name where the data are events


class SpikeSource(Protocol):
    """N samples of spikes; `labels` are for evaluation only, training never reads them."""

    @property
    def shape(self) -> tuple[int, int]:
        """(T, n) of one sample."""
        ...

    @property
    def labels(self) -> Array | None:
        """Classes `(N,)` int64."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Array, draw: int = 0) -> Array:
        """Spikes `(M, T, n)` uint8 of the samples `indices`; `draw` numbers the draws of a random encoder."""
        ...


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """The samples of `source` as the spikes of `encoder`, encoded when taken; one random stream per sample and draw."""

    source: Source
    encoder: Encoder
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(T, n)."""
        return self.encoder.shape(tuple(self.source.shape))

    @property
    def labels(self) -> Array | None:
        """Those of the source."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Array, draw: int = 0) -> Array:
        """See SpikeSource."""
        rngs = [np.random.default_rng([self.seed, draw, int(i)]) for i in indices]
        return self.encoder(self.source.take(indices), rngs)


@dataclass(frozen=True, eq=False)
class EventSource:
    """Events of a camera, binned in time and pooled in space: a spike where a cell saw an event of that polarity.

    `x`, `y`, `polarity` (0 or 1) and `time` (microseconds) hold all items one after another, item i in
    `offsets[i]:offsets[i + 1]`. T steps of equal length cover `duration`; later events are left out.
    """

    x: Array
    y: Array
    polarity: Array
    time: Array
    offsets: Array
    labels: Array | None
    side: int
    steps: int
    pool: int
    duration: float

    @property
    def shape(self) -> tuple[int, int]:
        """(T, n): polarity, then row, then column."""
        return self.steps, 2 * (-(-self.side // self.pool)) ** 2

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, indices: Array, draw: int = 0) -> Array:
        """See SpikeSource; `draw` changes nothing."""
        chosen = checked_indices(indices, len(self))
        width = -(-self.side // self.pool)
        out = np.zeros((len(chosen), *self.shape), np.uint8)
        for place, item in enumerate(chosen):
            part = slice(int(self.offsets[item]), int(self.offsets[item + 1]))
            step = (self.time[part] * (self.steps / self.duration)).astype(np.int64)
            seen = step < self.steps
            row, column = self.y[part] // self.pool, self.x[part] // self.pool
            cell = (self.polarity[part].astype(np.int64) * width + row) * width + column
            out[place, step[seen], cell[seen]] = 1
        return out


def nmnist_events(part: str = "train", steps: int = 30, pool: int = 2, duration: float = 310_000.0) -> EventSource:
    """`nmnist_small` as events; three saccades of about 100 ms each.

    Raises:
        ConfigError: an option out of range; DataError where the file is absent.
    """
    if part not in ("train", "test") or steps < 1 or not 1 <= pool <= EVENT_SIDE or not duration > 0:
        raise ConfigError(
            f"nmnist events: part {part!r}, steps {steps}, pool {pool}, duration {duration}; expected train or test,"
            f" 1 or more, 1 to {EVENT_SIDE}, and microseconds"
        )
    found = read_members("nmnist_small", "x", "y", "p", "dt_us", "offsets", "label", "is_test")
    every = found["offsets"].astype(np.int64)
    clock = np.cumsum(found["dt_us"].astype(np.int64))
    begin = np.concatenate([[0], clock])[every[:-1]]
    items = np.flatnonzero(found["is_test"].astype(bool) == (part == "test"))
    rows = np.concatenate([np.arange(every[i], every[i + 1]) for i in items])
    time = clock[rows] - np.repeat(begin[items], np.diff(every)[items])
    offsets = np.concatenate([[0], np.cumsum(np.diff(every)[items])])
    x, y, p = (found[name][rows] for name in ("x", "y", "p"))
    return EventSource(
        x, y, p, time, offsets, found["label"][items].astype(np.int64), EVENT_SIDE, steps, pool, duration
    )


def open_spikes(
    spec: str, encoder: str = "auto", options: Mapping[str, Any] | None = None, seed: int = 0, **reader: Any
) -> SpikeSource:
    """Spikes of DATA as `edgessl.data.open_source` names it, through `encoder` with its `options`.

    `auto` is the default of the data's kind; `shared:nmnist_small` is read as events with `events`, and
    `shared:qtdb_ecg_spikes`, which are spikes, with `signed`. `reader` are options of the data's reader; shared speech
    is read as 20 mel bands unless they say otherwise.

    Raises:
        ConfigError: no encoder for this kind of data, or an unknown name or option.
    """
    given = dict(options or {})
    name, _, part = spec.removeprefix("shared:").partition(":")
    if encoder == EVENTS or (encoder == "auto" and spec.startswith("shared:nmnist_small")):
        if name != "nmnist_small":
            raise ConfigError(f"encoder {EVENTS!r} reads shared:nmnist_small, not {spec!r}")
        return call_with_options(nmnist_events, "events", part=part or "train", **given)
    if spec.startswith("shared:") and name in SPEECH:
        reader = {"n_mels": MEL_BANDS, **reader}
    source = open_source(spec, **reader)
    if encoder == "auto":
        if source.kind not in DEFAULT_ENCODERS:
            raise ConfigError(f"{spec}: no spike encoder for {source.kind!r}; expected {', '.join(DEFAULT_ENCODERS)}")
        encoder = "signed" if source.units == "spikes" else DEFAULT_ENCODERS[source.kind]
    return EncodedSource(source, build_encoder(encoder, given), seed)


@dataclass(frozen=True, eq=False)
class SpikeSubset:
    """The samples `indices` of `source`, in that order."""

    source: SpikeSource
    indices: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(T, n)."""
        return self.source.shape

    @property
    def labels(self) -> Array | None:
        """Those of the samples."""
        return None if self.source.labels is None else self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Array, draw: int = 0) -> Array:
        """See SpikeSource."""
        return self.source.take(self.indices[checked_indices(indices, len(self))], draw)


def spike_batches(source: SpikeSource, size: int) -> Iterator[Array]:
    """All samples in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))
