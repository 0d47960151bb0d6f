"""Robustness of a frozen encoder: accuracy under corruptions, and telling other data from its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgessl.errors import InputError
from edgessl.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from edgessl.evaluate.neighbours import unit

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 512


def corruption_accuracy(
    predict: Callable[[Array], Array],
    samples: Array,
    truth: Array,
    kind: str,
    std: Array,
    seed: int = 0,
    on_done: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Accuracy of `predict` on clean samples and under every corruption of `kind` at severities 1 to 5.

    Args:
        predict: samples `(N, *shape)` float32 -> classes `(N,)`, e.g. encoder and kNN on clean training samples.
        std: of the channels, in which strengths are given.

    Returns:
        `clean`; `mean`, over corruptions and severities alike; `by_severity`, five means; `corruptions`, name -> five
        accuracies. Beside `mean`, 1 - mean is the unnormalised mCE of Hendrycks and Dietterich 2019, section 4.
    """
    names = [function.__name__ for function in CORRUPTIONS[kind]]
    found: dict[str, list[float]] = {}
    for i, name in enumerate(names):
        found[name] = [
            float((predict(corrupt(samples, kind, name, severity, std, seed)) == truth).mean())
            for severity in SEVERITIES
        ]
        on_done((i + 1) / len(names))
    grid = np.array(list(found.values()))
    return {
        "clean": float((predict(samples) == truth).mean()),
        "mean": float(grid.mean()),
        "by_severity": grid.mean(0).tolist(),
        "corruptions": found,
    }


def knn_distance(bank: Array, queries: Array, k: int = 10) -> Array:
    """Out-of-distribution score: Euclidean distance of unit embeddings to the k-th nearest of `bank`.

    Sun et al. 2022 (arXiv 2204.06507), section 3. Higher is further out; needs no labels.
    """
    a, b = unit(queries), unit(bank)
    k = min(k, len(b))
    scores = np.empty(len(a))
    for i in range(0, len(a), BLOCK):
        nearest = np.partition(-(a[i : i + BLOCK] @ b.T), k - 1, axis=1)[:, k - 1]
        scores[i : i + BLOCK] = np.sqrt(np.maximum(2.0 + 2.0 * nearest, 0.0))
    return scores


def mahalanobis(bank: Array, labels: Array, queries: Array) -> Array:
    """Out-of-distribution score: squared Mahalanobis distance to the nearest class mean, one covariance for all.

    Lee et al. 2018 (arXiv 1807.03888), eq. 1 and 2, on the last layer. The covariance gets 1e-6 of its mean variance
    on the diagonal, since embeddings often span fewer dimensions than they have. Higher is further out.
    """
    wide = np.asarray(bank, np.float64)
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([wide[index == c].mean(0) for c in range(len(classes))])
    centred = wide - means[index]
    covariance = centred.T @ centred / len(wide)
    d = len(covariance)
    covariance = covariance + (1e-6 * np.trace(covariance) / d + 1e-12) * np.eye(d)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    a, b = np.asarray(queries, np.float64) @ whiten, means @ whiten
    squared = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
    nearest: Array = squared.min(1)
    return nearest


def auroc(inside: Sequence[float] | Array, outside: Sequence[float] | Array) -> float:
    """Area under the ROC curve: the chance that a score from `outside` is above one from `inside`; 0.5 is chance."""
    from sklearn.metrics import roc_auc_score

    if not len(inside) or not len(outside):
        raise InputError(f"AUROC needs scores of both sides, found {len(inside)} and {len(outside)}")
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    return float(roc_auc_score(truth, np.r_[inside, outside]))


def out_of_distribution(bank: Array, labels: Array, inside: Array, outside: Array, k: int = 10) -> dict[str, float]:
    """AUROC of telling embeddings `outside` from `inside` (a test split), by `knn_distance` and by `mahalanobis`."""
    return {
        "knn": auroc(knn_distance(bank, inside, k), knn_distance(bank, outside, k)),
        "mahalanobis": auroc(mahalanobis(bank, labels, inside), mahalanobis(bank, labels, outside)),
    }
