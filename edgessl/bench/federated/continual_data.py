"""The streams of `continual`: what each device of a fleet meets, in which order, and what its encoder is judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgessl.bench.continual.material import Material, classes, groups_of, shared_material
from edgessl.continual.judge import Labelled
from edgessl.data import ArraySource, Source
from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scenario:
    """Streams of `clients` devices over the contexts of some data.

    Attributes:
        title: for people.
        load: gives samples with a context (what changes over time) and a client (-1: any) each.
        turned: device k begins with context k and goes round, so that every device is elsewhere at any time; else all
            devices meet the same context at the same time.
        rounds: of the federation in each context; in each, a device meets `chunk` samples.
        bank, test: labelled samples per context of the judge.
        factory, factory_epochs: samples of context 0 that the encoder is pretrained on, no device's own, and passes.
    """

    title: str
    load: Callable[[], tuple[Material, Array]]
    encoder: str
    lr: float
    turned: bool
    rounds: int
    factory_epochs: int
    clients: int = 4
    chunk: int = 32
    bank: int = 192
    test: int = 250
    factory: int = 512
    encoder_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Problem:
    """A scenario with a seed.

    Attributes:
        factory: what the encoder is pretrained on.
        streams: per device, what it meets in each round: (clients, contexts * rounds) arrays (chunk, *shape).
        orders: (clients, contexts) int64, the context that a device is in, by time.
        bank, test: the judge's.
    """

    factory: Source
    streams: list[list[Array]]
    orders: Array
    bank: Labelled
    test: Labelled

    def everything(self) -> Array:
        """All samples of all devices."""
        return np.concatenate([chunk for stream in self.streams for chunk in stream])


def problem(name: str, seed: int) -> Problem:
    """Draw the samples of scenario `name`; no two devices share one. ConfigError, DataError where data are missing."""
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; choose among {', '.join(SCENARIOS)}")
    wanted = SCENARIOS[name]
    found, owners = wanted.load()
    contexts, count = len(found.names), wanted.rounds * wanted.chunk
    rng = np.random.default_rng([seed, 81])
    test = np.concatenate([_spread(_rows(found, context, found.test), wanted.test) for context in range(contexts)])
    own: dict[tuple[int, int], Array] = {}
    bank: list[Array] = []
    factory = np.zeros(0, np.int64)
    for context in range(contexts):
        rows = rng.permutation(_rows(found, context, ~found.test))
        if context == 0:
            taken = np.concatenate([part[: wanted.factory // wanted.clients] for part in _shares(rows, owners, wanted)])
            factory, rows = taken, rows[~np.isin(rows, taken)]
        for client, part in enumerate(_shares(rows, owners, wanted)):
            if len(part) < count:
                raise ConfigError(
                    f"{name}: {len(part)} samples of context {context} for device {client}, {count} needed"
                )
            own[client, context] = part[:count]
        bank.append(
            np.concatenate([own[client, context][: wanted.bank // wanted.clients] for client in range(wanted.clients)])
        )
    orders = np.array([np.roll(np.arange(contexts), -k if wanted.turned else 0) for k in range(wanted.clients)])
    streams = [
        [found.samples[part] for context in order for part in np.split(own[client, int(context)], wanted.rounds)]
        for client, order in enumerate(orders)
    ]
    shape, labelled = found.samples.shape[1:], np.concatenate(bank)
    source = ArraySource(found.samples[factory], found.kind, shape, found.units, "channels_first", 1.0, "factory")
    judged = [Labelled(found.samples[rows], found.labels[rows], found.contexts[rows]) for rows in (labelled, test)]
    return Problem(source, streams, orders, *judged)


def _rows(found: Material, context: int, part: Array) -> Array:
    return np.flatnonzero((found.contexts == context) & part)


def _shares(rows: Array, owners: Array, wanted: Scenario) -> list[Array]:
    """What of `rows` is each device's: its owner's, or an even share."""
    if owners[rows].min(initial=0) < 0:
        return np.array_split(rows, wanted.clients)
    return [rows[owners[rows] == client] for client in range(wanted.clients)]


def _spread(rows: Array, count: int) -> Array:
    """At most `count` of `rows`, evenly spaced."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])


def _fashion() -> tuple[Material, Array]:
    found = shared_material("fashion_mnist", {}, classes(2), pool=2)
    return found, np.full(len(found.labels), -1)


def _phone_then_watch() -> tuple[Material, Array]:
    """Four people to a device; people never seen test."""
    load = partial(shared_material, "har_phone_watch", contexts=groups_of("subject", 4))
    parts = [load(options={"device": device}) for device in ("phone", "watch")]
    merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("samples", "labels", "test")}
    contexts = np.repeat([0, 1], [len(part.labels) for part in parts])
    owners = np.concatenate([part.contexts for part in parts])
    material = Material(contexts=contexts, names=("phone", "watch"), kind="signal", units=parts[0].units, **merged)
    return material, owners


_FASHION: dict[str, Any] = {"load": _fashion, "encoder": "ds_cnn_s", "lr": 4e-3, "rounds": 3, "factory_epochs": 5}

SCENARIOS = {
    "fashion_together": Scenario(
        "Fashion-MNIST at 14 x 14, two classes at a time, the same for all devices", turned=False, **_FASHION
    ),
    "fashion_turned": Scenario("the same, every device beginning with two other classes", turned=True, **_FASHION),
    "har_device": Scenario(
        "activities by phone, then by watch, four people to a device; people never seen test",
        _phone_then_watch,
        encoder="cnn1d",
        lr=2e-3,
        turned=False,
        rounds=8,
        factory_epochs=5,
        test=600,
    ),
}
