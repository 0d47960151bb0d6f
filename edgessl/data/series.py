"""A long series of rows, seen as overlapping windows without copying it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import Kind, checked_indices, float_samples
from edgessl.data.windows import majority, segments, window_starts
from edgessl.errors import DataError


@dataclass(frozen=True, eq=False)
class WindowSource:
    """Windows of a series (rows, channels) as signals (C,T); see `windows_of`, which cuts it.

    `labels` is each window's most frequent row label, `purity` the share of rows that carry it;
    `groups` is the group of each window, `timestamps` the time of its first row.
    """

    series: NDArray[Any]  # (rows, C) in the stored dtype, possibly a memory map
    starts: NDArray[np.int64]  # (N,) first row of each window
    shape: tuple[int, int]  # (C, T)
    scale: NDArray[np.float32]  # (C,) value = stored * scale
    units: str
    name: str
    labels: NDArray[np.int64] | None = None
    purity: NDArray[np.float64] | None = None
    timestamps: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    kind: Kind = "signal"

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read windows; see Source.take."""
        chosen = checked_indices(indices, len(self))
        rows = self.starts[chosen, None] + np.arange(self.shape[1])
        values = float_samples(self.series[rows].transpose(0, 2, 1), self.name, chosen)
        values *= self.scale[:, None]
        return values


def windows_of(
    series: NDArray[Any],
    *,
    window: int,
    stride: int | None = None,
    scale: float | NDArray[Any] = 1.0,
    labels: NDArray[np.int64] | None = None,
    times: NDArray[np.float64] | None = None,
    groups: NDArray[np.int64] | None = None,
    max_gap: float | None = None,
    valid: NDArray[np.bool_] | None = None,
    units: str = "as stored",
    name: str = "series",
    classes: tuple[str, ...] = (),
    group_names: tuple[str, ...] = (),
) -> WindowSource:
    """Cut `series` (rows, C), which is not copied, into windows of `window` rows.

    stride: rows from one window to the next, by default `window`.
    No window crosses a change of `groups`, a step back in `times` (seconds), a gap above `max_gap` seconds
    or a row that is not `valid`; these and `labels` have one entry per row. scale: one number or one per
    channel. DataError if the series is not (rows, channels) of numbers or if no window fits.
    """
    if series.ndim != 2 or series.dtype.kind not in "iuf":
        raise DataError(f"{name}: found {series.dtype} of shape {series.shape}; expected numbers (rows, channels)")
    rows, channels = series.shape
    runs = segments(rows, groups=groups, times=times, max_gap=max_gap, valid=valid)
    starts = window_starts(runs, window, window if stride is None else stride)
    if len(starts) == 0 or channels == 0:
        longest = int((runs[:, 1] - runs[:, 0]).max()) if len(runs) else 0
        raise DataError(
            f"{name}: no window of {window} rows fits: {rows} rows of {channels} channels, of which at most"
            f" {longest} follow each other without a gap; give a smaller window"
        )
    label, purity = (None, None) if labels is None else majority(labels, starts, window)
    return WindowSource(
        series,
        starts,
        (channels, window),
        np.broadcast_to(np.asarray(scale, np.float32), channels),
        units,
        name,
        labels=label,
        purity=purity,
        timestamps=None if times is None else times[starts].astype(np.float64),
        groups=None if groups is None else groups[starts].astype(np.int64),
        classes=classes,
        group_names=group_names,
    )
