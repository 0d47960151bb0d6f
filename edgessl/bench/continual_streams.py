"""The streams of `edgessl continual bench`: which data, divided how, under which budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgessl.continual.judge import Labelled
from edgessl.continual.streams import Budget, Order, blurred, by_group, recurring
from edgessl.data import ArraySource, Source, load_shared
from edgessl.data.source import Kind
from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]


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


@dataclass(frozen=True)
class Scenario:
    """One stream.

    Attributes:
        title: for people.
        load: gives the material; the seed is that of the run.
        encoder, encoder_options: from the registry.
        per_context: samples of the stream; of one that has fewer, all.
        test: test samples per context, evenly spaced, the same for every seed.
        factory: samples of the first context that the encoder is pretrained on, none of them in the stream.
        factory_epochs: passes over them, in batches of 64.
        cut: stage of the encoder behind which latent replay learns.
        lr: of the factory and of the device, AdamW.
        steps, chunk: training steps of `BATCH` samples after every `chunk` samples.
        memory: raw float32 samples that fit into the device's memory.
        bank: samples of the stream per context whose labels the judge's classifiers may use.
        recorded: samples of a context keep their order; else they are shuffled by the seed.
        arrange: what else is done to the order.
    """

    title: str
    load: Callable[[], Material]
    encoder: str
    per_context: int
    test: int
    factory: int
    factory_epochs: int
    cut: str
    lr: float = 4e-3
    steps: int = 2
    chunk: int = 32
    memory: int = 256
    bank: int = 200
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    recorded: bool = False
    arrange: Callable[[Order, int], Order] = lambda order, seed: order


@dataclass(frozen=True, eq=False)
class Problem:
    """A scenario with a seed: what the factory, the device and the judge each get."""

    factory: Source
    stream: Source
    order: Order
    bank: Labelled
    test: Labelled
    budget: Budget

    def everything(self) -> Array:
        """All samples of the stream at once, which no device has."""
        return self.stream.take(np.arange(len(self.stream)))


def problem(name: str, seed: int) -> Problem:
    """Draw the samples of stream `name`; ConfigError for an unknown name, DataError where its data are absent."""
    if name not in SCENARIOS:
        raise ConfigError(f"unknown stream {name!r}; choose one of {', '.join(SCENARIOS)}")
    scenario = SCENARIOS[name]
    found = scenario.load()
    rng = np.random.default_rng([seed, 61])
    train, test = [], []
    factory = np.zeros(0, np.int64)
    for context in range(len(found.names)):
        asked = np.flatnonzero((found.contexts == context) & found.test)
        test.append(_spread(asked, scenario.test))
        own = rng.permutation(np.flatnonzero((found.contexts == context) & ~found.test))
        if context == 0:
            factory, own = own[: scenario.factory], own[scenario.factory :]
        train.append(np.sort(own[: scenario.per_context]))
    chosen, asked = np.concatenate(train), np.concatenate(test)
    labelled = np.concatenate([_spread(own, scenario.bank) for own in train])
    order = by_group(found.contexts[chosen], seed=None if scenario.recorded else seed)
    order = Order(order.indices, order.contexts, found.names)
    shape = found.samples.shape[1:]
    return Problem(
        factory=_source(found, factory),
        stream=_source(found, chosen),
        order=scenario.arrange(order, seed),
        bank=Labelled(found.samples[labelled], found.labels[labelled], found.contexts[labelled]),
        test=Labelled(found.samples[asked], found.labels[asked], found.contexts[asked]),
        budget=Budget(scenario.chunk, scenario.steps, BATCH, scenario.memory * 4 * int(np.prod(shape))),
    )


def _spread(rows: Array, count: int) -> Array:
    """At most `count` of `rows`, evenly spaced."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])


def _source(found: Material, rows: Array) -> Source:
    shape = found.samples.shape[1:]
    return ArraySource(found.samples[rows], found.kind, shape, found.units, "channels_first", 1.0, "stream")


def _shared(
    name: str,
    options: Mapping[str, Any],
    contexts: Callable[[Mapping[str, Array], Array], tuple[Array, tuple[str, ...]]],
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


def _pooled(x: Array, side: int) -> Array:
    if side == 1:
        return x
    n, c, h, w = x.shape
    h, w = h // side * side, w // side * side
    means = x[:, :, :h, :w].reshape(n, c, h // side, side, w // side, side).mean((3, 5))
    return means.astype(np.float32)


def _classes(per_context: int) -> Callable[[Mapping[str, Array], Array], tuple[Array, tuple[str, ...]]]:
    def contexts(groups: Mapping[str, Array], labels: Array) -> tuple[Array, tuple[str, ...]]:
        count = -(-(int(labels.max()) + 1) // per_context)
        last = per_context - 1
        return labels // per_context, tuple(f"{i * per_context}-{i * per_context + last}" for i in range(count))

    return contexts


def _groups(key: str, size: int = 1) -> Callable[[Mapping[str, Array], Array], tuple[Array, tuple[str, ...]]]:
    """Contexts of `size` neighbouring values of the group `key`; a remainder joins the last one."""

    def contexts(groups: Mapping[str, Array], labels: Array) -> tuple[Array, tuple[str, ...]]:
        values, number = np.unique(groups[key], return_inverse=True)
        count = max(1, len(values) // size)
        context = np.minimum(np.arange(len(values)) // size, count - 1)
        return context[number], tuple(" ".join(map(str, values[context == i])) for i in range(count))

    return contexts


def _last_third(groups: Mapping[str, Array]) -> Array:
    """The last 30 % of every recording: later in time than what is learned from."""
    recording = groups["recording"]
    place = np.zeros(len(recording))
    for one in np.unique(recording):
        own = np.flatnonzero(recording == one)
        place[own] = np.arange(len(own)) / len(own)
    return place >= 0.7


def _har_devices() -> Material:
    """Phone, then watch; the test subjects are the data's own, seen by neither."""
    parts = [
        _shared("har_phone_watch", {"device": device}, lambda g, y: (np.zeros(len(y), np.int64), ("",)))
        for device in ("phone", "watch")
    ]
    merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("samples", "labels", "test")}
    contexts = np.repeat([0, 1], [len(part.labels) for part in parts])
    return Material(contexts=contexts, names=("phone", "watch"), kind="signal", units=parts[0].units, **merged)


def _every_third_execution(groups: Mapping[str, Array]) -> Array:
    return groups["execution"] % 3 == 0


def _second_experiment(groups: Mapping[str, Array]) -> Array:
    """Each user recorded twice; the second time tests."""
    user, experiment = groups["user"], groups["experiment"]
    last = {u: experiment[user == u].max() for u in np.unique(user)}
    return experiment == np.array([last[u] for u in user])


BATCH = 32  # samples per training step: half recent, half remembered
IMAGES: dict[str, Any] = {"encoder": "ds_cnn_s", "cut": "block3"}
SIGNALS: dict[str, Any] = {"encoder": "cnn1d", "cut": "block1"}
_FASHION: dict[str, Any] = {
    "load": partial(_shared, "fashion_mnist", {}, _classes(2), pool=2),
    **IMAGES,
    "per_context": 384,
    "test": 150,
    "factory": 512,
    "factory_epochs": 5,
}
_BEARINGS = {"window": 256, "stride": 256}  # 21 ms

SCENARIOS = {
    "split_fashion": Scenario("Fashion-MNIST at 14 x 14, two classes at a time", **_FASHION),
    "blurry_fashion": Scenario(
        "the same, neighbouring contexts overlapping by half",
        **_FASHION,
        arrange=lambda order, seed: blurred(order, 0.5, seed),
    ),
    "recurring_fashion": Scenario(
        "the same, every context coming twice with other samples",
        **_FASHION,
        arrange=lambda order, seed: recurring(order, 2),
    ),
    "split_cifar": Scenario(
        "CIFAR-100 subset at 16 x 16, ten classes at a time",
        partial(_shared, "cifar100_sub", {}, _classes(10), pool=2),
        **IMAGES,
        per_context=192,
        test=100,
        factory=512,
        factory_epochs=5,
        bank=192,
    ),
    "fsdd_speaker": Scenario(
        "spoken digits, one speaker after the other",
        partial(_shared, "fsdd", {"n_mels": 32, "hop": 512}, _groups("speaker")),
        **IMAGES,
        per_context=320,
        test=50,
        factory=128,
        factory_epochs=20,
    ),
    "har_device": Scenario(
        "activities by phone, then by watch; people never seen test",
        _har_devices,
        **SIGNALS,
        per_context=960,
        test=400,
        factory=512,
        factory_epochs=5,
        bank=400,
        recorded=True,
    ),
    "har_subject": Scenario(
        "activities by phone, four people after the other; other executions test",
        partial(_shared, "har_phone_watch", {}, _groups("subject", 4), _every_third_execution),
        **SIGNALS,
        per_context=400,
        test=200,
        factory=128,
        factory_epochs=20,
        recorded=True,
    ),
    "hapt_user": Scenario(
        "activities and postures, three people after the other; second recordings test",
        partial(_shared, "hapt", {}, _groups("user", 3), _second_experiment),
        **SIGNALS,
        per_context=288,
        test=150,
        factory=384,
        factory_epochs=7,
        recorded=True,
    ),
    "cwru_load": Scenario(
        "bearing faults, one motor load after the other; the end of each recording tests",
        partial(_shared, "cwru_12k_de", _BEARINGS, _groups("load_hp"), _last_third, both=True),
        **SIGNALS,
        per_context=480,
        test=250,
        factory=512,
        factory_epochs=5,
    ),
    "nmnist": Scenario(
        "N-MNIST event counts at 17 x 17, two digits at a time",
        partial(_shared, "nmnist_small", {}, _classes(2), pool=2),
        **IMAGES,
        per_context=160,
        test=20,
        factory=40,
        factory_epochs=80,
        steps=3,
        chunk=16,
    ),
}
