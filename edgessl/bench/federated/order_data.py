"""The samples of `order`: five devices with two classes each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.data import load_shared
from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]
DEVICES = 5
CLASSES = 2 * DEVICES

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

# name -> samples of a class on its device, for the test, for validation (of the train part; 0 where there are no more)
DATA = {"fashion_mnist": (300, 100, 100), "cifar100_sub": (500, 100, 0)}


@dataclass(frozen=True, eq=False)
class Shards:
    """Each device's samples (N, *shape), the classes of all of them in order, and what the encoders are judged by."""

    devices: list[Array]
    labels: Array
    test: Array
    test_labels: Array


def shards(name: str, seed: int, validate: bool = False) -> Shards:
    """Draw the samples of `name`, of DATA, at half the resolution; device k has classes 2k and 2k + 1.

    With `validate` the test samples are others of the train part. ConfigError where there are none.
    """
    per_class, test, held = DATA[name]
    if validate and not held:
        raise ConfigError(f"{name} has no train samples to spare for validation")
    data, rng = load_shared(name), np.random.default_rng(seed)
    classes = _classes(name, data.classes)
    train = _rows(classes[np.asarray(data.train.labels)], per_class + held, rng)
    own, spare = train[:, :per_class], train[:, per_class:]
    if validate:
        source, rows = data.train, spare
    else:
        source, rows = data.test, _rows(classes[np.asarray(data.test.labels)], test, rng)
    devices = [_half(data.train.take(own[2 * k : 2 * k + 2].ravel())) for k in range(DEVICES)]
    labels = np.repeat(np.arange(CLASSES), per_class)
    return Shards(devices, labels, _half(source.take(rows.ravel())), np.repeat(np.arange(CLASSES), rows.shape[1]))


def _classes(name: str, names: tuple[str, ...]) -> Array:
    """The class by label; -1 for labels that are left out."""
    if name == "fashion_mnist":
        return np.arange(CLASSES)
    number = {fine: i for i, members in enumerate(SUPERCLASSES.values()) for fine in members}
    return np.array([number.get(fine, -1) for fine in names])


def _rows(classes: Array, per_class: int, rng: np.random.Generator) -> Array:
    """Rows (CLASSES, per_class) of each class, drawn without repeats."""
    return np.stack([rng.permutation(np.flatnonzero(classes == c))[:per_class] for c in range(CLASSES)])


def _half(x: Array) -> Array:
    """Means over squares of two by two."""
    n, c, h, w = x.shape
    half: Array = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)).astype(np.float32)
    return half
