"""The samples of `order`: five devices with two classes each, or with a fifth of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.data import load_shared
from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]
DEVICES = 5

SUPERCLASSES = {  # the first ten of CIFAR-100's twenty
    "aquatic mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit and vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household electrical devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large outdoor things": ("bridge", "castle", "house", "road", "skyscraper"),
}


@dataclass(frozen=True)
class Split:
    """Which samples of a shared data set, and how many of each class: on its one device, for the test, for validation.

    Those for validation are of the train part, and 0 where there are no more.
    """

    shared: str
    train: int
    test: int
    validation: int
    classes: int = 10
    superclasses: bool = False
    half: bool = True  # the resolution


DATA = {
    "fashion_mnist": Split("fashion_mnist", 300, 100, 100),
    "cifar100_sub": Split("cifar100_sub", 500, 100, 0, superclasses=True),
    "cifar100_fine": Split("cifar100_sub", 100, 20, 0, classes=100, half=False),  # as published, a fifth of the images
}


@dataclass(frozen=True, eq=False)
class Shards:
    """Each device's samples (N, *shape), the classes of all of them in order, and what the encoders are judged by."""

    devices: list[Array]
    labels: Array
    test: Array
    test_labels: Array


def shards(name: str, seed: int, validate: bool = False) -> Shards:
    """Draw the samples of `name`, of DATA; device k has the k-th fifth of the classes, and nobody else has those.

    With `validate` the test samples are others of the train part. ConfigError where there are none.
    """
    split = DATA[name]
    if validate and not split.validation:
        raise ConfigError(f"{name} has no train samples to spare for validation")
    data, rng = load_shared(split.shared), np.random.default_rng(seed)
    classes = _superclasses(data.classes) if split.superclasses else np.arange(split.classes)
    train = _rows(classes[np.asarray(data.train.labels)], split.classes, split.train + split.validation, rng)
    if validate:
        source, rows = data.train, train[:, split.train :]
    else:
        source, rows = data.test, _rows(classes[np.asarray(data.test.labels)], split.classes, split.test, rng)
    shown = _half if split.half else np.asarray
    own = train[:, : split.train].reshape(DEVICES, -1)
    devices = [shown(data.train.take(part)) for part in own]
    labels, test_labels = (np.repeat(np.arange(split.classes), n) for n in (split.train, rows.shape[1]))
    return Shards(devices, labels, shown(source.take(rows.ravel())), test_labels)


def _superclasses(names: tuple[str, ...]) -> Array:
    """The superclass by label; -1 for labels of the ten that are left out."""
    number = {fine: i for i, members in enumerate(SUPERCLASSES.values()) for fine in members}
    return np.array([number.get(fine, -1) for fine in names])


def _rows(classes: Array, count: int, per_class: int, rng: np.random.Generator) -> Array:
    """Rows (count, per_class) of each class, drawn without repeats."""
    return np.stack([rng.permutation(np.flatnonzero(classes == c))[:per_class] for c in range(count)])


def _half(x: Array) -> Array:
    """Means over squares of two by two."""
    n, c, h, w = x.shape
    half: Array = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)).astype(np.float32)
    return half
