"""The online linear probe beside a pretraining run: labels go to the probe, and nothing comes back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgessl.errors import InputError
from edgessl.evaluate.online import OnlineProbe

Labels = np.ndarray[Any, np.dtype[np.int64]]


class BatchProbe:
    """Tests an `OnlineProbe` on every batch before it learns from it.

    Args:
        labels: classes `(samples,)` int64, 0 and up; -1 where unknown.
        samples: number of samples in the source.
        state: of the probe of an interrupted run; {} for a fresh one.

    Raises:
        InputError: the labels do not fit the samples, or none is known.
    """

    def __init__(self, labels: Labels, samples: int, state: dict[str, Tensor]) -> None:
        self._labels = np.asarray(labels)
        if self._labels.shape != (samples,) or self._labels.dtype.kind not in "iu":
            raise InputError(
                f"probe: expected {samples} whole numbers as labels, found {self._labels.dtype} {self._labels.shape}"
            )
        if samples == 0 or self._labels.max() < 0 or self._labels.min() < -1:
            raise InputError("probe: labels are 0 and up, -1 where unknown, and at least one has to be known")
        self._state, self._probe = dict(state), None  # type: tuple[dict[str, Tensor], OnlineProbe | None]
        self._shares: list[float] = []

    def learn(self, embeddings: Tensor, indices: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """One step on a batch's `embeddings` `(M, D)`, view by view, of the samples `indices` `(N,)`."""
        labels = torch.from_numpy(self._labels[indices].astype(np.int64)).to(embeddings.device)
        if self._probe is None:
            classes = int(self._labels.max()) + 1
            self._probe = OnlineProbe(embeddings.shape[1], classes, device=embeddings.device)
            if self._state:
                self._probe.load(self._state)
        self._shares.append(self._probe.accuracy(embeddings, labels))
        self._probe.update(embeddings, labels)

    def accuracy(self) -> float:
        """Share in [0, 1] that the probe got right on the batches since the last call, each before learning from it;
        NaN where no label was known."""
        known = [share for share in self._shares if not math.isnan(share)]
        self._shares = []
        return sum(known) / len(known) if known else math.nan

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return self._state if self._probe is None else self._probe.state()
