"""Data of the spiking benches: encoding, which samples learn, validate and test, and what a read-out sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgessl.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
KEEP = 0.9  # of the traces that a read-out of every step sees
VALIDATION = 4  # one training sample in so many validates while settings are chosen


@dataclass(frozen=True)
class Case:
    """A data set: how many samples train and test, what the coder is, and what its read-out sees.

    `block` is that of the temporal contrast, `parts` the windows into which ESPP cuts a recording, `steps` the first
    ones of a recording that are used (0: all), `drive` the exponent of the input's weights under predictive coding, so
    large that the error of training spikes falls. The read-out sees `bins` parts of the time, for one label per sample,
    or a trace at each `every`-th step, for one label per step.
    """

    spec: str
    train: int
    test: int
    recipe: dict[str, Any]
    block: int
    parts: int
    drive: int = 0
    bins: int = 1
    every: int = 0
    steps: int = 0
    reader: dict[str, Any] = field(default_factory=dict)


CASES = {
    "fashion_mnist": Case(
        "shared:fashion_mnist", 2000, 2000,
        {"hidden": [128, 64], "epochs": 4, "encoder": {"name": "regular", "options": {"steps": 12}}}, block=6, parts=2,
    ),
    "nmnist_small": Case(
        "shared:nmnist_small", 600, 400,
        {"hidden": [128, 64], "epochs": 8, "batch_size": 32, "encoder": {"name": "events", "options": {"steps": 18}}},
        block=3, parts=3, bins=3,
    ),
    "fsdd": Case(
        "shared:fsdd", 1500, 300,
        {"hidden": [128, 64], "epochs": 5, "dv": 256, "encoder": {"name": "mel_crossing", "options": {"repeat": 1}}},
        block=4, parts=2, drive=3, bins=3,
    ),
    "qtdb_ecg_spikes": Case(
        "shared:qtdb_ecg_spikes", 240, 141,
        {"hidden": [128, 64], "epochs": 10, "batch_size": 32, "crop": 100, "du": 511, "dv": 128,
         "encoder": {"name": "signed"}}, block=10, parts=4, drive=3, every=16, steps=400,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FirstSteps:
    """The samples of a spike source, cut after `steps` steps."""

    source: Any
    steps: int

    @property
    def shape(self) -> tuple[int, int]:
        """(T, n)."""
        return self.steps, self.source.shape[1]

    @property
    def labels(self) -> Array | None:
        """Those of the source."""
        labels: Array | None = self.source.labels
        return labels

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Array, draw: int = 0) -> Array:
        """Spikes (M, steps, n)."""
        spikes: Array = self.source.take(indices, draw)
        return spikes[:, : self.steps]


@dataclass(frozen=True)
class Data:
    """Spikes and labels of a case; labels of a per-step case are `(N, S)`, -1 where none.

    `test` are the samples that judge: the test samples, or those of validation while settings are chosen.
    """

    case: Case
    train: Any
    test: Any
    train_labels: Array
    test_labels: Array

    def read(self, coder: Any, part: str) -> tuple[Array, Array]:
        """Features and labels of a part, of a coder; of the input where there is none."""
        from neuromorphic.readout import embed_spikes, input_features, step_features

        source, labels = self._part(part)
        if self.case.every:
            return self._known(step_features(coder, source, self._steps, KEEP), labels)
        if coder is None:
            return input_features(source, self.case.bins), labels
        return embed_spikes(coder, source, self.case.bins), labels

    def read_integers(self, network: Any, population: str, part: str) -> tuple[Array, Array]:
        """Features and labels of a part, of a population of an integer network that does not learn meanwhile."""
        import torch

        from neuromorphic.coder import trace
        from neuromorphic.plastic import embed, fires

        source, labels = self._part(part)
        spikes = source.take(np.arange(len(source)))
        if not self.case.every:
            return embed(network, spikes, population, self.case.bins), labels
        at = torch.from_numpy(self._steps)
        fired: Iterable[Array] = fires(network, spikes, population)
        found = np.concatenate([trace(torch.from_numpy(x).float(), KEEP, at).numpy() for x in fired])
        return self._known(found, labels)

    @property
    def _steps(self) -> Array:
        return np.arange(self.case.every - 1, self.train.shape[0], self.case.every)

    def _part(self, part: str) -> tuple[Any, Array]:
        return (self.train, self.train_labels) if part == "train" else (self.test, self.test_labels)

    def _known(self, features: Array, labels: Array) -> tuple[Array, Array]:
        """The steps that have a label: `features` (N, S, n) at them."""
        wanted = labels[:, self._steps].reshape(-1)
        return features.reshape(wanted.size, -1)[wanted >= 0], wanted[wanted >= 0]


def load(case: Case, choosing: bool = False) -> Data:
    """Open a case's spikes; its samples and their split are the same for every seed.

    While settings are chosen, every fourth training sample validates and the rest train; no test sample is opened.
    N-MNIST's own test part is 100 items, too few to tell a point: 400 training items that training never sees test it.
    """
    from edgessl.data import load_shared
    from neuromorphic.spike_data import SpikeSubset, open_spikes

    encoder = case.recipe["encoder"]
    options = dict(encoder.get("options", {}))
    train, test = (
        open_spikes(case.spec + part, encoder["name"], options, **case.reader) for part in (":train", ":test")
    )
    if case.steps:
        train, test = FirstSteps(train, case.steps), FirstSteps(test, case.steps)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(train))
    chosen = np.sort(order[: case.train])
    if choosing:
        judged = np.arange(case.train) % VALIDATION == VALIDATION - 1
        test, others, chosen = train, chosen[judged], chosen[~judged]
    elif case.test > len(test):
        test, others = train, np.sort(order[case.train :][: case.test])
    else:
        others = np.sort(rng.permutation(len(test))[: case.test])
    one, two = SpikeSubset(train, chosen), SpikeSubset(test, others)
    if case.every:
        found = load_shared(case.spec.removeprefix("shared:"))
        groups = found.train_groups if choosing else found.test_groups
        return Data(case, one, two, found.train_groups["step_labels"][chosen], groups["step_labels"][others])
    if one.labels is None or two.labels is None:
        raise DataError(f"{case.spec}: no labels to read out")
    return Data(case, one, two, one.labels, two.labels)
