"""Shared data as pairs of modalities: a phone and a watch worn at once, pictures and sounds of the same digit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.digits import open_digits
from edgessl.data.pairs import PairedSource
from edgessl.data.series import WindowSource
from edgessl.data.shared import SharedData, load_shared, read_members
from edgessl.data.source import Source, Subset
from edgessl.errors import ConfigError, DataError


def phone_watch_pairs(
    window: int = 128,
    stride: int = 64,
    test_subjects: Collection[int] = tuple(range(17, 24)),
    max_skew: float = 0.1,
) -> SharedData:
    """Windows (6,T) of a phone and of a watch at the same time: pairs (12 T,), five activities, 23 people.

    Both devices recorded every execution, each on a clock that starts with it, and that is what aligns them: a phone's
    window goes with the watch's that starts nearest in time. Pairs whose starts or ends lie more than `max_skew`
    seconds apart are left out. Split and groups as in `har_phone_watch`, and `skew`, the larger of the two gaps.
    """
    devices = [
        load_shared("har_phone_watch", device=device, window=window, stride=step, test_subjects=test_subjects)
        for device, step in (("phone", stride), ("watch", 1))
    ]
    found = read_members("har_phone_watch", "sp_t_ms", "sw_t_ms")
    clocks = found["sp_t_ms"] / 1000, found["sw_t_ms"] / 1000
    parts, groups = [], []
    for side in ("train", "test"):
        phone, watch = (_windows(getattr(device, side)) for device in devices)
        facts = getattr(devices[0], f"{side}_groups")
        partner, skew = nearest_in_time(phone, watch, clocks)
        kept = np.flatnonzero(skew <= max_skew)
        if len(kept) == 0:
            raise ConfigError(
                f"phone_watch_pairs: no two windows lie within {max_skew} s; the smallest is {skew.min()}"
            )
        chosen_phone = Subset(phone[0], phone[1][kept])
        chosen_watch = Subset(watch[0], watch[1][partner[kept]])
        parts.append(PairedSource(chosen_phone, chosen_watch))
        groups.append({name: values[kept] for name, values in facts.items()} | {"skew": skew[kept]})
    return SharedData(parts[0], parts[1], devices[0].classes, groups[0], groups[1])


def digit_pairs_by_label(n_mels: int = 20, seed: int = 0) -> SharedData:
    """Scikit-learn's written digits (1,8,8) and the Free Spoken Digit Dataset's log-mels (1,n_mels,30), made by label.

    Nobody said these digits while writing them: every picture is paired with a random clip of the same digit, so the
    labels are what makes the pairs. An example of the form of image-audio data, not of learning without labels.
    """
    spoken = load_shared("fsdd", n_mels=n_mels)
    parts = []
    for images, sounds in (
        (open_digits("train", size=8), spoken.train),
        (open_digits("test", size=8), spoken.test),
    ):
        if images.labels is None or sounds.labels is None:
            raise DataError("digit_pairs_by_label: a side has no labels to pair by")
        rng = np.random.default_rng(seed)
        partner = np.zeros(len(images), np.int64)
        for digit in range(10):
            rows = np.flatnonzero(images.labels == digit)
            partner[rows] = rng.choice(np.flatnonzero(sounds.labels == digit), len(rows))
        parts.append(PairedSource(images, Subset(sounds, partner)))
    return SharedData(parts[0], parts[1], spoken.classes)


Windows = tuple[WindowSource, NDArray[np.int64]]


def _windows(source: Source) -> Windows:
    """A part of `har_phone_watch`: the source of all windows, and which of them are the part's."""
    if not isinstance(source, Subset) or not isinstance(source.source, WindowSource):
        raise DataError(f"expected a part of har_phone_watch, found {type(source).__name__}")
    return source.source, source.indices


def nearest_in_time(
    a: Windows, b: Windows, clocks: tuple[NDArray[Any], NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each window of `a` the place in `b` of the window of the same recording that starts nearest, and the skew.

    The skew is the larger distance, in seconds, of the two starts and of the two last rows; infinite where the
    recording has no window in `b`. `clocks` are the times of the rows of the two series.
    """
    (first, rows_a), (second, rows_b) = a, b
    starts_a, starts_b = first.starts[rows_a], second.starts[rows_b]
    if first.groups is None or second.groups is None:
        raise DataError("windows without recordings cannot be aligned")
    recording_a, recording_b = first.groups[rows_a], second.groups[rows_b]
    partner, skew = np.zeros(len(rows_a), np.int64), np.full(len(rows_a), np.inf)
    for recording in np.unique(recording_a):
        mine, theirs = np.flatnonzero(recording_a == recording), np.flatnonzero(recording_b == recording)
        if len(theirs) == 0:
            continue
        distance = np.abs(clocks[0][starts_a[mine], None] - clocks[1][starts_b[theirs]])
        nearest = theirs[distance.argmin(axis=1)]
        ends = clocks[0][starts_a[mine] + first.shape[1] - 1] - clocks[1][starts_b[nearest] + second.shape[1] - 1]
        partner[mine], skew[mine] = nearest, np.maximum(distance.min(axis=1), np.abs(ends))
    return partner, skew
