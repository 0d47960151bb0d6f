"""Labelled data for evaluation: a training and a test split, hashed with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgessl.data.source import Source, Subset, content_hash
from edgessl.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
HELD_OUT, HELD_OUT_SEED = 0.2, 0
OWN = "the data's own"
HOW = (
    "give labels: a .npz with members x and y, --data labels=FILE.npy beside a .npy, --data label=COLUMN for a table, "
    "one folder per class for images and sounds"
)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples whose label is known. `groups`: facts per sample, such as subject or device, by name."""

    source: Source
    labels: Array
    groups: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    def samples(self) -> Array:
        """All samples (N, *shape) float32."""
        return self.source.take(np.arange(len(self)))

    def subset(self, indices: Array) -> Split:
        """The samples `indices`, in that order."""
        groups = {name: values[indices] for name, values in self.groups.items()}
        return Split(Subset(self.source, indices), self.labels[indices], groups)

    def limited(self, limit: int) -> Split:
        """At most `limit` samples, evenly spaced."""
        if len(self) <= limit:
            return self
        return self.subset(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))

    def digest(self) -> str:
        """SHA-256 (hex) over the `content_hash` of every sample and over every label."""
        text = content_hash(self.source, limit=len(self)).encode() + np.ascontiguousarray(self.labels, "<i8").tobytes()
        return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Both splits.

    Attributes:
        how: how they were divided, in words.
        whole_hash: `content_hash` of the training source before any sample was left out, as pretraining writes it.
        classes: names by label, where known.
    """

    name: str
    train: Split
    test: Split
    how: str
    whole_hash: str
    classes: tuple[str, ...] = ()

    def limited(self, limit: int) -> LabelledData:
        """At most `limit` samples of either split."""
        return replace(self, train=self.train.limited(limit), test=self.test.limited(limit))


def labelled(source: Source, name: str, groups: Mapping[str, Array] | None = None) -> Split:
    """The samples of `source` whose label is known (not -1).

    Raises:
        DataError: it has no labels; the message says how to give them.
    """
    if source.labels is None or not (source.labels >= 0).any():
        raise DataError(f"{name}: evaluation needs labels and found none; {HOW}")
    known = np.flatnonzero(source.labels >= 0)
    whole = Split(source, source.labels, dict(groups or {}))
    return whole if len(known) == len(source) else whole.subset(known)


def hold_out(split: Split) -> tuple[Split, Split]:
    """Train and test: `HELD_OUT` of every class for test, drawn by `HELD_OUT_SEED`.

    Raises:
        DataError: a class has one sample only.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    test = []
    for label in np.unique(split.labels):
        own = np.flatnonzero(split.labels == label)
        if len(own) < 2:
            raise DataError(f"class {label} has one sample, too few to hold one out; give a test set: --test DATA")
        test.append(rng.choice(own, max(1, round(HELD_OUT * len(own))), replace=False))
    chosen = np.sort(np.concatenate(test))
    rest = np.setdiff1d(np.arange(len(split)), chosen)
    return split.subset(rest), split.subset(chosen)


def open_labelled(spec: str, options: Mapping[str, Any], test: str | None = None) -> LabelledData:
    """Open DATA for evaluation, with its reader's `options`.

    With `test`, that is the test split, read with the same options. Without, `digits` and `shared:NAME` bring their
    own, and other data are divided by `hold_out`.

    Raises:
        DataError: no labels, or the splits do not fit together; ConfigError as `edgessl.data.open_source`.
    """
    from edgessl.data import load_shared, open_source

    name = spec.removesuffix(":train")
    if test is None and name == "digits":
        test = "digits:test"
    if test is None and name.startswith("shared:") and name.count(":") == 1:
        shared = load_shared(name.removeprefix("shared:"), **options)
        train_split = labelled(shared.train, name, shared.train_groups)
        test_split = labelled(shared.test, f"{name}:test", shared.test_groups)
        return _checked(LabelledData(spec, train_split, test_split, OWN, content_hash(shared.train), shared.classes))
    source = open_source(spec, **options)
    train_split, whole = labelled(source, spec), content_hash(source)
    if test is None:
        how = f"{HELD_OUT:.0%} of every class held out, seed {HELD_OUT_SEED}"
        return _checked(LabelledData(spec, *hold_out(train_split), how, whole))
    test_split = labelled(open_source(test, **options), test)
    how = OWN if test == "digits:test" and name == "digits" else f"test is {test}"
    return _checked(LabelledData(spec, train_split, test_split, how, whole))


def _checked(data: LabelledData) -> LabelledData:
    train, test = data.train, data.test
    if train.source.shape != test.source.shape:
        raise DataError(f"{data.name}: train samples are {train.source.shape}, test samples {test.source.shape}")
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{data.name}: every label is {train.labels[0]}; evaluation needs two classes or more")
    if not np.isin(test.labels, train.labels).any():
        raise DataError(f"{data.name}: no class of the test split is in the training split")
    return data
