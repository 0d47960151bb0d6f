"""The material of streams: shared data with a context for every sample, and what of it is for test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.data import load_shared, open_digits
from edgessl.data.shared import read_members
from edgessl.data.source import Kind

Array = np.ndarray[Any, np.dtype[Any]]
Contexts = Callable[[Mapping[str, Array], Array], tuple[Array, tuple[str, ...]]]  # of groups and labels; -1 leaves out


@dataclass(frozen=True, eq=False)
class Material:
    """All samples of a stream's data with their class, context and whether they are for test."""

    samples: Array
    labels: Array
    contexts: Array
    test: Array
    names: tuple[str, ...]
    kind: Kind
    units: str


def shared_material(
    name: str,
    options: Mapping[str, Any],
    contexts: Contexts,
    test: Callable[[Mapping[str, Array]], Array] | None = None,
    pool: int = 1,
    both: bool = False,
) -> Material:
    """A shared data set; `contexts` and `test` are made from groups and labels.

    `test`: None takes the data's own split. `both`: its train and test part are one pool, for `test` to divide.
    `pool`: images are averaged over squares of this side.
    """
    data = load_shared(name, **options)
    parts = [(data.train, data.train_groups), (data.test, data.test_groups)]
    if test is not None and not both:
        parts = parts[:1]
    rows = [np.flatnonzero(np.asarray(source.labels) >= 0) for source, _ in parts]
    labels = np.concatenate([np.asarray(source.labels)[r] for (source, _), r in zip(parts, rows, strict=True)])
    keys = data.train_groups.keys()
    groups = {k: np.concatenate([g[k][r] for (_, g), r in zip(parts, rows, strict=True)]) for k in keys}
    x = np.concatenate([_pooled(source.take(r), pool) for (source, _), r in zip(parts, rows, strict=True)])
    held = np.repeat([False, True], [len(rows[0]), len(labels) - len(rows[0])]) if test is None else test(groups)
    context, names = contexts(groups, labels)
    keep = context >= 0
    return Material(x[keep], labels[keep], context[keep], held[keep], names, data.train.kind, data.train.units)


def digit_pairs() -> Material:
    """scikit-learn's digits at 16 x 16, two at a time; needs no shared data."""
    parts = [open_digits(part) for part in ("train", "test")]
    x = np.concatenate([part.take(np.arange(len(part))) for part in parts])
    labels = np.concatenate([np.asarray(part.labels) for part in parts])
    context, names = classes(2)({}, labels)
    test = np.arange(len(labels)) >= len(parts[0])
    return Material(x, labels, context, test, names, parts[0].kind, parts[0].units)


def gas_by_month() -> Material:
    """Gas sensor features over 36 months, eight batches of them; every third sample of a batch is for test.

    A batch is almost sorted by gas, so the samples for test are spread over it.
    """
    found = read_members("gas_drift", "x", "y", "batch")
    months, context = np.unique(found["batch"], return_inverse=True)
    names = tuple(f"batch {month}" for month in months)
    test = np.arange(len(context)) % 3 == 2
    x, labels = found["x"].astype(np.float32), found["y"].astype(np.int64)
    return Material(x, labels, context.astype(np.int64), test, names, "features", "sensor features")


def _pooled(x: Array, side: int) -> Array:
    if side == 1:
        return x
    n, c, h, w = x.shape
    h, w = h // side * side, w // side * side
    means = x[:, :, :h, :w].reshape(n, c, h // side, side, w // side, side).mean((3, 5))
    return means.astype(np.float32)


def classes(per_context: int) -> Contexts:
    """Contexts of `per_context` classes after the other."""

    def contexts(groups: Mapping[str, Array], labels: Array) -> tuple[Array, tuple[str, ...]]:
        count = -(-(int(labels.max()) + 1) // per_context)
        last = per_context - 1
        return labels // per_context, tuple(f"{i * per_context}-{i * per_context + last}" for i in range(count))

    return contexts


def groups_of(key: str, size: int = 1) -> Contexts:
    """Contexts of `size` neighbouring values of the group `key`; a remainder joins the last one."""

    def contexts(groups: Mapping[str, Array], labels: Array) -> tuple[Array, tuple[str, ...]]:
        values, number = np.unique(groups[key], return_inverse=True)
        count = max(1, len(values) // size)
        context = np.minimum(np.arange(len(values)) // size, count - 1)
        return context[number], tuple(" ".join(map(str, values[context == i])) for i in range(count))

    return contexts


def last_third(groups: Mapping[str, Array]) -> Array:
    """The last 30 % of every recording: later in time than what is learned from."""
    recording = groups["recording"]
    place = np.zeros(len(recording))
    for one in np.unique(recording):
        own = np.flatnonzero(recording == one)
        place[own] = np.arange(len(own)) / len(own)
    return place >= 0.7


def phone_then_watch() -> Material:
    """Phone, then watch; the test subjects are the data's own, seen by neither."""
    parts = [
        shared_material("har_phone_watch", {"device": device}, lambda g, y: (np.zeros(len(y), np.int64), ("",)))
        for device in ("phone", "watch")
    ]
    merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("samples", "labels", "test")}
    contexts = np.repeat([0, 1], [len(part.labels) for part in parts])
    return Material(contexts=contexts, names=("phone", "watch"), kind="signal", units=parts[0].units, **merged)


def every_third_execution(groups: Mapping[str, Array]) -> Array:
    """A third of the times that a person did everything."""
    return groups["execution"] % 3 == 0


def second_experiment(groups: Mapping[str, Array]) -> Array:
    """Each user recorded twice; the second time tests."""
    user, experiment = groups["user"], groups["experiment"]
    last = {u: experiment[user == u].max() for u in np.unique(user)}
    return experiment == np.array([last[u] for u in user])
