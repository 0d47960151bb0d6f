"""The judge: labelled samples of every context, and how well embeddings tell their classes apart.

The learner never sees what the judge holds: no label, no context, no test sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.errors import InputError
from edgessl.evaluate.neighbours import knn_predict
from edgessl.evaluate.probes import fit_linear

Array = np.ndarray[Any, np.dtype[Any]]
Embed = Callable[[Array], Array]
NEIGHBOURS = 20


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples (N, *shape), classes (N,) and contexts (N,)."""

    samples: Array
    labels: Array
    contexts: Array


@dataclass(frozen=True)
class Verdict:
    """Accuracies (T,) of each context's test samples by 20 nearest neighbours, and what the probe says.

    `aware`: the bank is the context's own; `pooled`: the bank is that of all contexts. `linear` is pooled, (T,), and
    None where it was not asked for.
    """

    aware: Array
    pooled: Array
    linear: Array | None = None


class Judge:
    """A bank of labelled samples and the test samples of the same contexts.

    Raises:
        InputError: a context has no bank or no test samples.
    """

    def __init__(self, bank: Labelled, test: Labelled) -> None:
        self.contexts = int(max(bank.contexts.max(), test.contexts.max())) + 1
        for name, part in (("bank", bank), ("test", test)):
            if missing := sorted(set(range(self.contexts)) - set(part.contexts.tolist())):
                raise InputError(f"judge: context {missing[0]} has no {name} samples")
        self._bank, self._test = bank, test

    def verdict(self, embed: Embed, linear: bool = False) -> Verdict:
        """Judge the embeddings that `embed` gives now."""
        bank, test = self._bank, self._test
        z, queries = embed(bank.samples), embed(test.samples)
        pooled = knn_predict(z, bank.labels, queries, NEIGHBOURS) == test.labels
        aware = np.empty(len(queries), bool)
        for context in range(self.contexts):
            own, asked = bank.contexts == context, test.contexts == context
            found = knn_predict(z[own], bank.labels[own], queries[asked], NEIGHBOURS)
            aware[asked] = found == test.labels[asked]
        probe = None
        if linear:
            probe = self._by_context(fit_linear(z, bank.labels).predict(queries) == test.labels)
        return Verdict(self._by_context(aware), self._by_context(pooled), probe)

    def _by_context(self, correct: Array) -> Array:
        return np.array([correct[self._test.contexts == context].mean() for context in range(self.contexts)])
