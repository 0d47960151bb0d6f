"""The protocol of an evaluation, written into every result, and tables that refuse to mix protocols."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import fmean, stdev
from typing import Any

import edgessl
from edgessl.errors import FormatError, InputError

NORMALISATION = (
    "inputs: per channel, by the figures in the encoder; embeddings: unit length for neighbours and class means, "
    "standardised by the labelled samples for linear probes"
)
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    """Everything that two figures must share to be comparable. Plain JSON values; immutable.

    Attributes:
        data: name of the data, for people.
        train_hash, test_hash: SHA-256 of both splits as they were used, labels included (`split_hash`).
        split: how train and test were divided, in words.
        train_size, test_size: samples with a label, after any limit.
        labels: training labels that full probes may use; probes that use fewer say so in their settings.
        probes: figure -> its settings, e.g. {"knn": {"k": 20, "temperature": 0.1}}.
        epochs: passes over the data that pretraining had; None where its file does not say. Rows of reference
            (random weights, a supervised encoder) stand under the protocol of the rows that they are a reference for.
        seeds: seeds of the pretraining runs whose figures are pooled.
        weights: which weights were evaluated: "last epoch", never the best on the test set.
        normalisation: of inputs and embeddings, in words.
        version: of edgessl.
    """

    data: str
    train_hash: str
    test_hash: str
    split: str
    train_size: int
    test_size: int
    labels: int
    probes: Mapping[str, Settings]
    epochs: float | None
    seeds: tuple[int, ...]
    weights: str = "last epoch"
    normalisation: str = NORMALISATION
    version: str = edgessl.__version__

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back equal."""
        return {
            **asdict(self),
            "seeds": list(self.seeds),
            "probes": {name: dict(settings) for name, settings in self.probes.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Protocol:
        """Read what `to_json` wrote.

        Raises:
            FormatError: a field is missing or unknown.
        """
        names = {f.name for f in fields(cls)}
        if set(value) != names:
            missing, unknown = sorted(names - set(value)), sorted(set(value) - names)
            raise FormatError(f"protocol: missing fields {missing}, unknown fields {unknown}")
        return cls(**{**value, "seeds": tuple(value["seeds"])})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the JSON form with sorted keys: two protocols are equal where it is."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Protocol) -> list[str]:
        """What differs, as "field: ours, theirs"; empty where nothing does."""
        ours, theirs = dict(_flat(self.to_json())), dict(_flat(other.to_json()))
        absent = "absent"
        return [
            f"{key}: {ours.get(key, absent)!r}, {theirs.get(key, absent)!r}"
            for key in sorted(set(ours) | set(theirs))
            if ours.get(key, absent) != theirs.get(key, absent)
        ]


@dataclass(frozen=True)
class Result:
    """Figures of one encoder under one protocol.

    Attributes:
        name: the row: "simclr", "random weights", "supervised".
        protocol: how the figures came about.
        figures: probe -> one value for each of the protocol's seeds; a probe that does not apply is left out.
        role: "ours", "variant" (quantized, say) or "baseline".
        details: anything else worth keeping, as JSON values.

    Raises:
        InputError: a figure is not in the protocol, or has not one value per seed.
    """

    name: str
    protocol: Protocol
    figures: Mapping[str, tuple[float, ...]]
    role: str = "ours"
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for probe, values in self.figures.items():
            if probe not in self.protocol.probes:
                known = ", ".join(self.protocol.probes)
                raise InputError(f"result {self.name!r}: figure {probe!r} is not in its protocol, which has {known}")
            if len(values) != len(self.protocol.seeds):
                raise InputError(
                    f"result {self.name!r}: {len(values)} values of {probe!r} for {len(self.protocol.seeds)} seeds"
                )

    def only(self, *probes: str) -> Result:
        """This result with those probes alone, in figures and protocol: what two suites have in common compares.

        Raises:
            InputError: the protocol has no such probe.
        """
        if missing := [p for p in probes if p not in self.protocol.probes]:
            raise InputError(
                f"result {self.name!r} has no probe {missing[0]!r}; it has {', '.join(self.protocol.probes)}"
            )
        narrowed = replace(self.protocol, probes={p: self.protocol.probes[p] for p in probes})
        return replace(self, protocol=narrowed, figures={p: v for p, v in self.figures.items() if p in probes})

    def to_json(self) -> dict[str, Any]:
        """Plain values with the protocol and its digest; `from_json` reads them back equal."""
        return {
            "name": self.name,
            "role": self.role,
            "protocol": self.protocol.to_json(),
            "digest": self.protocol.digest,
            "figures": {probe: list(values) for probe, values in self.figures.items()},
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Read what `to_json` wrote.

        Raises:
            FormatError: something is missing, or the digest is not that of the protocol (edited by hand?).
        """
        try:
            protocol = Protocol.from_json(value["protocol"])
            found = value["digest"]
            figures = {probe: tuple(map(float, values)) for probe, values in value["figures"].items()}
            name, role, details = value["name"], value["role"], dict(value["details"])
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"not a result of edgessl evaluate: {error!r}") from None
        if found != protocol.digest:
            raise FormatError(f"result {name!r}: its protocol was altered: digest {protocol.digest}, written {found}")
        return cls(name, protocol, figures, role, details)


@dataclass(frozen=True)
class ResultTable:
    """Rows of figures under one protocol; a cell is (mean, standard deviation over seeds) or None."""

    protocol: Protocol
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[float, float] | None, ...]], ...]

    def markdown(self) -> str:
        """The table in percent, with its protocol's digest and what it was made on underneath."""
        head = ["", *self.columns]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += ["| " + " | ".join([name, *map(percent, cells)]) + " |" for name, cells in self.rows]
        p = self.protocol
        seeds = f"{len(p.seeds)} {'seed' if len(p.seeds) == 1 else 'seeds'}"
        epochs = "epochs unknown" if p.epochs is None else f"{p.epochs:g} epochs"
        note = f"{p.data}, {p.train_size:,} + {p.test_size:,} samples, {epochs}, {p.weights}, {seeds}"
        return "\n".join([*lines, "", f"Percent; {note}; protocol {p.digest[:12]}."])


def percent(cell: tuple[float, float] | None) -> str:
    """ "81.2 ± 0.4", "81.2" where there is one seed, a dash where there is no figure."""
    if cell is None:
        return "–"
    mean, std = cell
    return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def table(results: Sequence[Result]) -> ResultTable:
    """Results side by side: mean and sample standard deviation (n - 1) over seeds, NaN for one seed.

    Raises:
        InputError: there are none, or two differ in protocol; the message names what differs.
    """
    if not results:
        raise InputError("a table needs one result or more")
    first = results[0]
    for other in results[1:]:
        if different := first.protocol.differences(other.protocol):
            raise InputError(
                f"{first.name!r} and {other.name!r} were not evaluated by one protocol and cannot share a table; "
                f"{'; '.join(different)}. Evaluate both alike, or narrow both with only(...)"
            )
    columns = tuple(p for p in first.protocol.probes if any(p in r.figures for r in results))
    rows = tuple((r.name, tuple(_cell(r.figures.get(column)) for column in columns)) for r in results)
    return ResultTable(first.protocol, columns, rows)


def merge(results: Sequence[Result]) -> Result:
    """One row of several: the same encoder and protocol, pretrained from different seeds; details are dropped.

    Raises:
        InputError: names or protocols differ in more than the seeds, figures differ, or a seed comes twice.
    """
    if not results:
        raise InputError("merging needs one result or more")
    first = results[0]
    seeds = tuple(seed for r in results for seed in r.protocol.seeds)
    if len(set(seeds)) != len(seeds):
        raise InputError(f"result {first.name!r}: seeds {seeds} hold one twice; a seed counts once")
    for other in results[1:]:
        different = first.protocol.differences(replace(other.protocol, seeds=first.protocol.seeds))
        if other.name != first.name or different or set(other.figures) != set(first.figures):
            why = "; ".join(different) or f"figures {sorted(first.figures)}, {sorted(other.figures)}"
            raise InputError(f"{first.name!r} and {other.name!r} cannot be pooled: {why}")
    figures = {probe: tuple(v for r in results for v in r.figures[probe]) for probe in first.figures}
    return Result(first.name, replace(first.protocol, seeds=seeds), figures, first.role)


def _cell(values: Sequence[float] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    return fmean(values), stdev(values) if len(values) > 1 else math.nan


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
