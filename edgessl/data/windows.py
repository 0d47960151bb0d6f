"""Windowing of a series of rows: pure functions over row numbers, no data touched."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import ConfigError, InputError


def window_count(rows: int, window: int, stride: int) -> int:
    """How many windows of `window` rows, `stride` apart, fit into `rows` rows."""
    if window < 1 or stride < 1:
        raise ConfigError(f"window is {window} and stride is {stride}; both are 1 or more rows")
    return 0 if rows < window else 1 + (rows - window) // stride


def segments(
    rows: int,
    *,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    max_gap: float | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """The longest runs of rows that a window may cover: int64 (S, 2), [start, stop), in order.

    A run ends where `groups` (rows,) changes, where `times` (rows,) steps back or (with `max_gap`) steps
    forward by more than `max_gap`, and around every row that is not `valid` (rows,).
    """
    for name, column in (("groups", groups), ("times", times), ("valid", valid)):
        if column is not None and column.shape != (rows,):
            raise InputError(f"{name} has shape {column.shape}; expected ({rows},), one entry per row")
    if max_gap is not None and times is None:
        raise ConfigError("max_gap needs times")
    if rows == 0:
        return np.zeros((0, 2), np.int64)
    cut = np.zeros(rows - 1, bool)  # cut[i]: row i + 1 does not continue row i
    if groups is not None:
        cut |= groups[1:] != groups[:-1]
    if times is not None:
        step = np.diff(times.astype(np.float64))
        cut |= step < 0
        if max_gap is not None:
            cut |= step > max_gap
    if valid is not None:
        cut |= valid[1:] != valid[:-1]
    edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [rows]]).astype(np.int64)
    runs = np.stack([edges[:-1], edges[1:]], axis=1)
    return runs if valid is None else runs[valid[runs[:, 0]]]


def window_starts(runs: NDArray[np.int64], window: int, stride: int) -> NDArray[np.int64]:
    """First row of every window that fits into `runs` (S, 2), int64 (N,); each run starts its own grid."""
    window_count(0, window, stride)  # refuses a window or stride below 1
    length = runs[:, 1] - runs[:, 0]
    count = np.where(length < window, 0, 1 + (length - window) // stride)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(runs[:, 0], count) + stride * within


def majority(
    labels: NDArray[np.int64], starts: NDArray[np.int64], window: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most frequent label of each window (the smallest on a tie) and the share of rows that carry it.

    labels: int64 (rows,).  Returns int64 (N,) and purity float64 (N,) in (0, 1].
    """
    winner = np.zeros(len(starts), np.int64)
    most = np.zeros(len(starts), np.int64)
    for label in np.unique(labels):
        before = np.concatenate([[0], np.cumsum(labels == label)])
        count = before[starts + window] - before[starts]
        winner[count > most] = label
        most = np.maximum(most, count)
    return winner, most / window
