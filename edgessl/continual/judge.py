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

Array = np.ndarray[Any, np.dtype[Any]]
Embed = Callable[[Array], Array]
Predict = Callable[[Array, Array, Array], Array]  # bank (M, D), its labels (M,), queries (N, D) -> labels (N,)
Verdict = dict[str, Array]  # by one of KINDS: the accuracy (T,) on each context's test samples
KINDS = ("linear", "linear_aware", "knn", "knn_aware")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples (N, *shape), classes (N,) and contexts (N,)."""

    samples: Array
    labels: Array
    contexts: Array


class Judge:
    """A bank of labelled samples and the test samples of the same contexts.

    It judges by a linear probe (ridge regression on standardised embeddings, which is closed-form, so that it can be
    fitted after every context) and by the vote of 20 nearest neighbours. Either is *pooled*, with the bank of all
    contexts, or task-*aware*, with that of the sample's own.

    Raises:
        InputError: a context has no bank or no test samples.
    """

    def __init__(self, bank: Labelled, test: Labelled) -> None:
        self.contexts = int(max(bank.contexts.max(), test.contexts.max())) + 1
        for name, part in (("bank", bank), ("test", test)):
            if missing := sorted(set(range(self.contexts)) - set(part.contexts.tolist())):
                raise InputError(f"judge: context {missing[0]} has no {name} samples")
        self._bank, self._test = bank, test

    def verdict(self, embed: Embed) -> Verdict:
        """Judge the embeddings that `embed` gives now."""
        z, queries = embed(self._bank.samples), embed(self._test.samples)
        found = {}
        for name, predict in (("linear", ridge_predict), ("knn", knn_predict)):
            found[name] = self._pooled(predict, z, queries)
            found[f"{name}_aware"] = self._aware(predict, z, queries)
        return found

    def _pooled(self, predict: Predict, z: Array, queries: Array) -> Array:
        correct = predict(z, self._bank.labels, queries) == self._test.labels
        return np.array([correct[self._test.contexts == context].mean() for context in range(self.contexts)])

    def _aware(self, predict: Predict, z: Array, queries: Array) -> Array:
        accuracies = []
        for context in range(self.contexts):
            own, asked = self._bank.contexts == context, self._test.contexts == context
            found = predict(z[own], self._bank.labels[own], queries[asked])
            accuracies.append((found == self._test.labels[asked]).mean())
        return np.array(accuracies)


def ridge_predict(bank: Array, labels: Array, queries: Array, penalty: float = 1.0) -> Array:
    """Classes of `queries` (N, D) by ridge regression onto one target per class, 1 for its own samples and 0 else.

    Embeddings are standardised by `bank` (M, D); the intercept is not penalised. In closed form, float64.
    """
    classes, index = np.unique(labels, return_inverse=True)
    mean, std = bank.mean(0, dtype=np.float64), bank.std(0, dtype=np.float64)
    std[std == 0] = 1.0
    x, targets = (bank - mean) / std, np.eye(len(classes))[index]
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - targets.mean(0)))
    predicted: Array = classes[((queries - mean) / std @ weights + targets.mean(0)).argmax(1)]
    return predicted
