"""The required part of a demo's report.json, read strictly: three tables of accuracies and the time it took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgessl.errors import InputError


@dataclass(frozen=True)
class Accuracy:
    """Fractions in [0, 1]: mean and standard deviation over seeds, and the seeds' own values."""

    mean: float
    std: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f} %"


@dataclass(frozen=True)
class Row:
    """One line of a table; `role` ("baseline", "ours" or "variant") gives its color."""

    key: str
    label: str
    role: str
    accuracy: Accuracy


@dataclass(frozen=True)
class Table:
    """One question and its rows."""

    key: str
    title: str
    question: str
    rows: tuple[Row, ...]

    def __getitem__(self, key: str) -> Accuracy:
        return next(row.accuracy for row in self.rows if row.key == key)


@dataclass(frozen=True)
class Results:
    """What every report shows. `seconds` holds the stages, if they were timed one by one."""

    tables: tuple[Table, ...]
    seconds: tuple[tuple[str, float], ...]
    total_seconds: float

    def table(self, key: str) -> Table:
        """The table "knn", "drift" or "federated"."""
        return next(table for table in self.tables if table.key == key)


# key, title, question, ((row key, label, role), ...)
_TABLES = (
    (
        "knn",
        "Pretraining and quantization",
        "How well do nearest neighbours in the embedding share a class, with random weights, after pretraining"
        " without labels, and after quantization to int8?",
        (
            ("random", "Random weights", "baseline"),
            ("pretrained", "Pretrained", "ours"),
            ("int8", "Pretrained, int8", "variant"),
        ),
    ),
    (
        "drift",
        "Adapting to drift on the device",
        "The data changes. Does learning on, without labels, help on the new data, and what does it cost on the old?",
        (
            ("frozen_new", "New data, frozen", "baseline"),
            ("adapted_new", "New data, adapted", "ours"),
            ("frozen_old", "Old data, frozen", "baseline"),
            ("adapted_old", "Old data, adapted", "ours"),
        ),
    ),
    (
        "federated",
        "Federation",
        "Do devices that share what they learned, never their data, do better than each on its own?",
        (
            ("local_mean", "Each on its own (mean)", "baseline"),
            ("federated", "Federated", "ours"),
        ),
    ),
)


def read_results(data: Mapping[str, Any]) -> Results:
    """Read and check `data`; keys beyond the required ones are left alone.

    Raises:
        InputError: a required figure is missing or is not what it should be; the message has its path.
    """
    tables = tuple(
        Table(
            key,
            title,
            question,
            tuple(
                Row(name, label, role, _accuracy(_get(_get(data, key, ""), name, key), f"{key}.{name}"))
                for name, label, role in rows
            ),
        )
        for key, title, question, rows in _TABLES
    )
    seconds = _get(data, "seconds", "")
    if not isinstance(seconds, Mapping):
        return Results(tables, (), _number(seconds, "seconds", math.inf))
    stages = tuple((name, _number(value, f"seconds.{name}", math.inf)) for name, value in seconds.items())
    parts = tuple((name, value) for name, value in stages if name != "total")
    return Results(tables, parts, dict(stages).get("total", sum(value for _, value in parts)))


def _accuracy(value: Any, path: str) -> Accuracy:
    seeds = _get(value, "seeds", path)
    if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not seeds:
        _fail(f"{path}.seeds", "a list of one accuracy per seed", seeds)
    return Accuracy(
        _number(_get(value, "mean", path), f"{path}.mean", 1.0),
        _number(_get(value, "std", path), f"{path}.std", 1.0),
        tuple(_number(seed, f"{path}.seeds[{i}]", 1.0) for i, seed in enumerate(seeds)),
    )


def _get(mapping: Any, key: str, path: str) -> Any:
    if not isinstance(mapping, Mapping):
        _fail(path or "top level", "an object", mapping)
    if key not in mapping:
        found = ", ".join(map(str, mapping)) or "nothing"
        raise InputError(f"report data: {f'{path}.{key}' if path else key} is missing; found {found}")
    return mapping[key]


def _number(value: Any, path: str, largest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
        _fail(path, "a number of 0 or more" if largest == math.inf else f"a number in [0, {largest:g}]", value)
    return float(value)


def _fail(path: str, expected: str, found: Any) -> None:
    raise InputError(f"report data: {path}: expected {expected}, found {found!r}")
