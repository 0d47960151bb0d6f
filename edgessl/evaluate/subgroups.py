"""Accuracy by group (subject, speaker, device): whom a model fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgessl.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
SMALL = 30  # groups of fewer samples are flagged, and left out of the gap
MANY = 64  # attributes with more values than this are identifiers or measurements, not groups
Z95 = 1.959963984540054


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927, eq. for z = 1.96): never outside [0, 1], fair for small `n`."""
    if n < 1 or not 0 <= correct <= n:
        raise InputError(f"a proportion needs 0 <= correct <= n and n of 1 or more, found {correct} of {n}")
    share, z2 = correct / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # the ends are exact where all or none are right; rounding must not move them
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half


def by_group(truth: Array, predicted: Array, groups: Array) -> dict[str, Any]:
    """Accuracy of each value of `groups` `(N,)`, with Wilson intervals, the worst group and the gap.

    Groups of fewer than SMALL samples are flagged; worst, best and gap are among the others, or None where fewer
    than two are large enough to tell.

    Raises:
        InputError: the lengths differ.
    """
    if not len(truth) == len(predicted) == len(groups):
        raise InputError(f"groups: {len(truth)} labels, {len(predicted)} predictions, {len(groups)} groups")
    right = np.asarray(truth) == np.asarray(predicted)
    rows: list[dict[str, Any]] = []
    for value in np.unique(groups):
        own = right[groups == value]
        low, high = wilson(int(own.sum()), len(own))
        rows.append(
            {
                "group": str(value),
                "n": len(own),
                "accuracy": float(own.mean()),
                "low": low,
                "high": high,
                "small": len(own) < SMALL,
            }
        )
    large = sorted((row for row in rows if not row["small"]), key=lambda row: row["accuracy"])
    tell = len(large) > 1
    return {
        "rows": rows,
        "worst": large[0]["group"] if tell else None,
        "best": large[-1]["group"] if tell else None,
        "gap": large[-1]["accuracy"] - large[0]["accuracy"] if tell else None,
    }


def subgroups(truth: Array, predicted: Array, groups: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, str]]:
    """`by_group` for every attribute that divides the samples, and why the others were left out."""
    found, skipped = {}, {}
    for name, values in groups.items():
        values = np.asarray(values)
        count = len(np.unique(values)) if values.ndim == 1 else 0
        if values.ndim != 1 or values.dtype.kind == "f":
            skipped[name] = "a measurement, not a group"
        elif not 2 <= count <= MANY:
            skipped[name] = f"{count} different values; groups are 2 to {MANY}"
        else:
            found[name] = by_group(truth, predicted, values)
    return found, skipped
