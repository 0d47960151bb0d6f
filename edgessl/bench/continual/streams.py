"""The streams of `edgessl continual bench`: which data, divided how, under which budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgessl.bench.continual.material import (
    Material,
    classes,
    digit_pairs,
    every_third_execution,
    gas_by_month,
    groups_of,
    last_third,
    phone_then_watch,
    second_experiment,
    shared_material,
)
from edgessl.continual.judge import Labelled
from edgessl.continual.streams import Budget, Order, blurred, by_group, recurring
from edgessl.data import ArraySource, Source
from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]


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
        cut: stage of the encoder behind which latent replay learns; "" where a quarter of the memory would not hold a
            batch of any latents.
        lr: of the factory and of the device, AdamW.
        steps, chunk: training steps of `BATCH` samples after every `chunk` samples.
        memory: raw float32 samples that fit into the device's memory.
        bank: training samples per context, the stream's first, whose labels the judge's classifiers may use.
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
    cut: str = ""
    lr: float = 4e-3
    steps: int = 6
    chunk: int = 32
    memory: int = 128
    bank: int = 256
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
    """Draw the samples of stream `name`.

    From `VALIDATION_SEED` on, the judge tests on training samples that are neither the factory's nor the stream's:
    what is chosen there has not seen a test label.

    Raises:
        ConfigError: an unknown name, or no training samples left to validate on.
        DataError: the stream's data are absent.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown stream {name!r}; choose one of {', '.join(SCENARIOS)}")
    scenario = SCENARIOS[name]
    found = scenario.load()
    rng = np.random.default_rng([seed, 61])
    train: list[Array] = []
    bank: list[Array] = []
    test: list[Array] = []
    factory = np.zeros(0, np.int64)
    for context in range(len(found.names)):
        asked = np.flatnonzero((found.contexts == context) & found.test)
        own = rng.permutation(np.flatnonzero((found.contexts == context) & ~found.test))
        if context == 0:
            factory, own = own[: scenario.factory], own[scenario.factory :]
        train.append(np.sort(own[: scenario.per_context]))
        bank.append(np.sort(own[: scenario.bank]))
        if seed >= VALIDATION_SEED:
            asked = own[max(scenario.per_context, scenario.bank) :]
            if len(asked) == 0:
                raise ConfigError(f"stream {name}: no training samples are left to validate on in context {context}")
        test.append(_spread(asked, scenario.test))
    chosen, asked = np.concatenate(train), np.concatenate(test)
    labelled = np.concatenate(bank)
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


VALIDATION_SEED = 100
BATCH = 32  # samples per training step: half recent, half remembered
IMAGES: dict[str, Any] = {"encoder": "ds_cnn_s"}
SIGNALS: dict[str, Any] = {"encoder": "cnn1d", "lr": 2e-3}
_FASHION: dict[str, Any] = {
    "load": partial(shared_material, "fashion_mnist", {}, classes(2), pool=2),
    **IMAGES,
    "per_context": 128,
    "test": 300,
    "factory": 512,
    "factory_epochs": 5,
}
_BEARINGS = {"window": 256, "stride": 256}  # 21 ms

SCENARIOS = {
    "split_digits": Scenario(
        "scikit-learn's digits at 16 x 16, two at a time; for a first look, in minutes and without downloads",
        digit_pairs,
        **IMAGES,
        per_context=128,
        test=70,
        factory=64,
        factory_epochs=20,
    ),
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
        partial(shared_material, "cifar100_sub", {}, classes(10), pool=2),
        **IMAGES,
        cut="block4",
        per_context=64,
        test=100,
        bank=128,
        factory=512,
        factory_epochs=5,
    ),
    "fsdd_speaker": Scenario(
        "spoken digits, one speaker after the other",
        partial(shared_material, "fsdd", {"n_mels": 32}, groups_of("speaker")),
        **IMAGES,
        cut="block4",
        per_context=128,
        test=50,
        factory=128,
        factory_epochs=20,
        steps=5,
    ),
    "har_device": Scenario(
        "activities by phone, then by watch; people never seen test",
        phone_then_watch,
        **SIGNALS,
        cut="block2",
        per_context=320,
        test=600,
        factory=512,
        factory_epochs=5,
        bank=512,
        recorded=True,
    ),
    "har_subject": Scenario(
        "activities by phone, four people after the other; other executions test",
        partial(shared_material, "har_phone_watch", {}, groups_of("subject", 4), every_third_execution),
        **SIGNALS,
        cut="block2",
        per_context=160,
        test=250,
        factory=128,
        factory_epochs=20,
        recorded=True,
    ),
    "hapt_user": Scenario(
        "activities and postures, three people after the other; second recordings test",
        partial(shared_material, "hapt", {}, groups_of("user", 3), second_experiment),
        **SIGNALS,
        cut="block2",
        per_context=96,
        test=200,
        factory=384,
        factory_epochs=7,
        recorded=True,
    ),
    "hapt_activity": Scenario(
        "activities and postures, two at a time; people never seen test",
        partial(shared_material, "hapt", {}, classes(2)),
        **SIGNALS,
        cut="block2",
        per_context=128,
        test=150,
        factory=256,
        factory_epochs=10,
    ),
    "har_activity": Scenario(
        "activities by phone, one at a time; people never seen test",
        partial(shared_material, "har_phone_watch", {}, classes(1)),
        **SIGNALS,
        cut="block2",
        per_context=128,
        test=150,
        factory=48,
        factory_epochs=50,
    ),
    "cwru_load": Scenario(
        "bearing faults, one motor load after the other; the end of each recording tests",
        partial(shared_material, "cwru_12k_de", _BEARINGS, groups_of("load_hp"), last_third, both=True),
        **SIGNALS,
        per_context=160,
        test=300,
        factory=512,
        factory_epochs=5,
    ),
    "gas_month": Scenario(
        "gas sensors ageing over 36 months, one batch after the other, shuffled within",
        gas_by_month,
        "mlp",
        lr=2e-3,
        per_context=96,
        test=150,
        factory=128,
        factory_epochs=20,
        bank=96,
    ),
    "nmnist": Scenario(
        "N-MNIST event counts at 17 x 17, two digits at a time",
        partial(shared_material, "nmnist_small", {}, classes(2), pool=2),
        **IMAGES,
        per_context=96,
        test=20,
        factory=40,
        factory_epochs=80,
        bank=150,
    ),
}
