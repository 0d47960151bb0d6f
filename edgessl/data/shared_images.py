"""Shared data that are images: Fashion-MNIST, a part of CIFAR-100, N-MNIST as event counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.arrays import array_source
from edgessl.data.shared import SharedData, read_members

_GARMENTS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_FULL_COUNT = 16
_EVENT_SIDE = 34


def fashion_mnist() -> SharedData:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 grey images (1,28,28), 10 classes."""
    found = read_members("fashion_mnist", "x_train", "y_train", "x_test", "y_test")
    train, test = (
        array_source(found[f"x_{part}"], labels=found[f"y_{part}"], name=f"fashion_mnist:{part}")
        for part in ("train", "test")
    )
    return SharedData(train, test, _GARMENTS)


def cifar100_sub() -> SharedData:
    """100 train and 20 test images of every class of CIFAR-100 (Krizhevsky, 2009): (3,32,32), RGB."""
    found = read_members("cifar100_sub", "classes", "d_train", "y_train", "d_test", "y_test")
    train, test = (
        array_source(
            decode_cifar(found[f"d_{part}"]),
            labels=found[f"y_{part}"],
            layout="channels_first",
            name=f"cifar100_sub:{part}",
        )
        for part in ("train", "test")
    )
    return SharedData(train, test, tuple(found["classes"].tolist()))


def decode_cifar(coded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the 2-D delta and the colour transform: (3,N,32,32) to RGB (N,3,32,32), all uint8."""
    planes = np.cumsum(np.cumsum(coded, axis=2, dtype=np.uint8), axis=3, dtype=np.uint8)
    planes[0] += planes[1]
    planes[2] += planes[1]
    return planes.transpose(1, 0, 2, 3)


def nmnist_small() -> SharedData:
    """N-MNIST (Orchard et al., 2015) as counts of OFF and ON events per pixel: (2,34,34), 1000 and 100 items.

    A count is divided by 16 and held at 1 (99.9% of the pixels that saw an event have 15 or fewer).
    """
    found = read_members("nmnist_small", "x", "y", "p", "offsets", "label", "is_test")
    counts = np.minimum(event_counts(found), _FULL_COUNT).astype(np.uint8)
    test = found["is_test"]
    sources = [
        array_source(
            counts[chosen],
            labels=found["label"][chosen],
            layout="channels_first",
            full_scale=_FULL_COUNT,
            units=f"events / {_FULL_COUNT}",
            name=f"nmnist_small:{part}",
        )
        for part, chosen in (("train", ~test), ("test", test))
    ]
    return SharedData(sources[0], sources[1], tuple("0123456789"))


def event_counts(events: dict[str, Any]) -> NDArray[np.int64]:
    """Events per item, polarity and pixel: (N,2,34,34), from members x, y, p and offsets."""
    offsets = events["offsets"].astype(np.int64)
    pixel = (events["p"].astype(np.int64) * _EVENT_SIDE + events["y"]) * _EVENT_SIDE + events["x"]
    size = 2 * _EVENT_SIDE**2
    item = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.bincount(item * size + pixel, minlength=(len(offsets) - 1) * size)
    return counts.reshape(-1, 2, _EVENT_SIDE, _EVENT_SIDE)
