"""Nearest neighbours of frozen embeddings: the weighted vote, and retrieval within and across modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgessl.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 256  # queries compared with the whole bank at a time


def unit(rows: Array) -> Array:
    """Rows `(N, D)` at length 1, float64; a row of zeros stays."""
    wide = np.asarray(rows, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def knn_predict(bank: Array, labels: Array, queries: Array, k: int = 20, temperature: float = 0.1) -> Array:
    """Labels of `queries` by a cosine-weighted vote of their `k` nearest neighbours in `bank`.

    The weighting is that of Wu et al. 2018 (arXiv 1805.01978), `exp(cos / temperature)`.

    Args:
        bank: embeddings `(M, D)`; labels: their classes `(M,)`; queries: embeddings `(N, D)`.

    Returns:
        Predicted classes `(N,)`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        n_neighbors=min(k, len(bank)),
        metric="cosine",
        weights=lambda d: np.exp((1.0 - d) / temperature),
        n_jobs=1,
    )
    return classifier.fit(bank, labels).predict(queries)


def knn_accuracy(
    bank: Array, labels: Array, queries: Array, truth: Array, k: int = 20, balanced: bool = False
) -> float:
    """Accuracy in [0, 1] of `knn_predict`; `balanced` averages the classes' recalls."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    score = balanced_accuracy_score if balanced else accuracy_score
    return float(score(truth, knn_predict(bank, labels, queries, k)))


def paired_recall(queries: Array, gallery: Array, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """R@k: the share of queries whose own pair is among the k most similar (cosine) of the gallery.

    Row i of `queries` `(N, D)` belongs to row i of `gallery` `(N, D)`: two modalities of one event, in either
    direction. A gallery row as similar as the pair counts before it, so that a collapsed encoder scores nothing.

    Raises:
        InputError: the shapes differ.
    """
    if queries.shape != gallery.shape:
        raise InputError(
            f"retrieval of pairs: expected two arrays of one shape, found {queries.shape}, {gallery.shape}"
        )
    a, b = unit(queries), unit(gallery)
    before = np.empty(len(a), np.int64)
    for i in range(0, len(a), BLOCK):
        similar = a[i : i + BLOCK] @ b.T
        rows = np.arange(len(similar))
        # rounding must not decide between equal rows
        own = similar[rows, i + rows][:, None] - 1e-9
        before[i : i + BLOCK] = (similar >= own).sum(1) - 1
    return {f"R@{k}": float((before < k).mean()) for k in ks}


def class_retrieval(
    queries: Array, query_labels: Array, gallery: Array, gallery_labels: Array, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Retrieval by class: `mAP`, and R@k, the share of queries with one of their class among the k most similar.

    Average precision over the whole gallery ranked by cosine (Manning et al. 2008, section 8.4), averaged over the
    queries whose class the gallery has. Queries and gallery are different samples, of one modality or of two.

    Raises:
        InputError: the gallery holds none of the queries' classes.
    """
    known = np.isin(query_labels, gallery_labels)
    if not known.any():
        raise InputError("retrieval: the gallery holds none of the queries' classes")
    a, truth, b = unit(queries[known]), np.asarray(query_labels)[known], unit(gallery)
    precision = np.empty(len(a))
    first = np.empty(len(a), np.int64)
    rank = np.arange(1, len(b) + 1)
    for i in range(0, len(a), BLOCK):
        order = np.argsort(-(a[i : i + BLOCK] @ b.T), axis=1, kind="stable")
        relevant = np.asarray(gallery_labels)[order] == truth[i : i + BLOCK, None]
        found = relevant.cumsum(1)
        precision[i : i + BLOCK] = (relevant * found / rank).sum(1) / found[:, -1]
        first[i : i + BLOCK] = relevant.argmax(1)
    return {"mAP": float(precision.mean())} | {f"R@{k}": float((first < k).mean()) for k in ks}


def zero_shot_predict(queries: Array, prompts: Array, prompt_labels: Array) -> Array:
    """Classes of `queries` `(N, D)` by the nearest class prototype of the other modality (Radford et al. 2021, 3.1).

    A class's prototype is the mean of the unit embeddings `prompts` `(M, D)` of the second tower that carry its label
    `(M,)`, at unit length again; the queries come from the first tower, and none of their own labels is used.
    """
    classes, prototypes = class_means(prompts, prompt_labels)
    predicted: Array = classes[(unit(queries) @ prototypes.T).argmax(1)]
    return predicted


def class_means(bank: Array, labels: Array) -> tuple[Array, Array]:
    """The classes `(C,)`, sorted, and the unit mean of each one's unit embeddings `(C, D)` float64."""
    rows = unit(bank)
    classes, index = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), rows.shape[1]))
    np.add.at(sums, index, rows)
    return classes, unit(sums)
