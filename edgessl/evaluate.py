"""Evaluation of frozen embeddings: nearest neighbours, a linear probe, effective rank. Labels are used nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgessl.encoders.base import evaluation_mode

Array = np.ndarray[Any, np.dtype[Any]]


@torch.no_grad()
def embed(encoder: nn.Module, samples: Array, batch_size: int = 256) -> Array:
    """Embeddings `(N, D)` float32 of `samples` `(N, *shape)` float32, in evaluation mode."""
    with evaluation_mode(encoder):
        rows = [encoder(torch.from_numpy(samples[i : i + batch_size])) for i in range(0, len(samples), batch_size)]
    return torch.cat(rows).numpy()


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


def linear_probe(
    bank: Array, labels: Array, queries: Array, truth: Array, balanced: bool = False, seed: int = 0
) -> float:
    """Accuracy in [0, 1] of a logistic regression on standardised embeddings (L2, C = 1)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed)).fit(bank, labels)
    score = balanced_accuracy_score if balanced else accuracy_score
    return float(score(truth, probe.predict(queries)))


def rankme(embeddings: Array, eps: float = 1e-7) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): exponential of the entropy of the singular values.

    `embeddings` `(N, D)`, not centred, as in the paper; in [1, min(N, D)].
    """
    singular = np.linalg.svd(np.asarray(embeddings, np.float64), compute_uv=False)
    p = singular / singular.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))
