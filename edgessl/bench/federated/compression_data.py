"""The samples of `compression`: devices whose data differ, and a test of other samples or other people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.data import load_shared
from edgessl.data.source import Kind
from edgessl.errors import ConfigError

Float = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
DATA = ("fashion_mnist", "har_phone_watch")

DEVICES, ALPHA, TRAIN, TEST, LEAST = 10, 0.1, 3_000, 1_000, 64  # of fashion_mnist


@dataclass(frozen=True, eq=False)
class Fleet:
    """Each device's samples (N, *shape) and, to judge encoders by, labels of all of them in order and a test."""

    devices: list[Float]
    labels: Labels
    test: Float
    test_labels: Labels
    kind: Kind
    encoder: str
    options: dict[str, int]
    optimizer: str
    local_steps: int


def fleet(name: str, seed: int) -> Fleet:
    """The devices of `name`, of DATA.

    fashion_mnist: 3,000 images at 14 x 14 on 10 devices, each class spread over them by a Dirichlet(0.1) draw, and
    1,000 others. har_phone_watch: one device per person, 16, with all windows of the phone; the test is 7 other people.
    """
    if name == "fashion_mnist":
        return _images(seed)
    if name == "har_phone_watch":
        return _people()
    raise ConfigError(f"unknown data {name!r}; choose among {', '.join(DATA)}")


def _images(seed: int) -> Fleet:
    data, rng = load_shared("fashion_mnist"), np.random.default_rng(seed)
    rows = rng.choice(len(data.train), TRAIN, replace=False)
    classes = np.asarray(data.train.labels)[rows].astype(np.int64)
    parts = dirichlet(classes, DEVICES, ALPHA, LEAST, rng)
    test = rng.choice(len(data.test), TEST, replace=False)
    return Fleet(
        [_half(data.train.take(rows[part])) for part in parts],
        np.concatenate([classes[part] for part in parts]),
        _half(data.test.take(test)),
        np.asarray(data.test.labels)[test].astype(np.int64),
        data.train.kind,
        "ds_cnn_s",
        {"stem_stride": 2},
        "adamw",
        local_steps=10,
    )


def _people() -> Fleet:
    data = load_shared("har_phone_watch", device="phone")
    subjects, labels = data.train_groups["subject"], np.asarray(data.train.labels).astype(np.int64)
    parts = [np.flatnonzero((subjects == subject) & (labels >= 0)) for subject in np.unique(subjects)]
    test_labels = np.asarray(data.test.labels).astype(np.int64)
    rows = np.flatnonzero(test_labels >= 0)
    return Fleet(
        [data.train.take(part) for part in parts],
        np.concatenate([labels[part] for part in parts]),
        data.test.take(rows),
        test_labels[rows],
        data.train.kind,
        "cnn1d",
        {},
        "adamw",
        local_steps=6,
    )


def dirichlet(
    classes: Labels, devices: int, alpha: float, least: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Rows of each device: every class divided by a draw from Dirichlet(alpha), until each device has `least`.

    Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution", arXiv 1909.06335.
    """
    while True:
        parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(devices)]
        for label in np.unique(classes):
            rows = rng.permutation(np.flatnonzero(classes == label))
            cuts = (np.cumsum(rng.dirichlet(np.full(devices, alpha)))[:-1] * len(rows)).astype(int)
            for part, own in zip(parts, np.split(rows, cuts), strict=True):
                part.append(own)
        joined = [np.sort(np.concatenate(part)) for part in parts]
        if min(map(len, joined)) >= least:
            return joined


def _half(x: Float) -> Float:
    """Means over squares of two by two."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)).astype(np.float32)
