"""Balanced clustering on the sphere, as Orchestra has it on both sides (Lubana et al., ICML 2022, arXiv 2205.11506)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.errors import FederationError

Rows = npt.NDArray[np.float64]

CENTROIDS = "clusters.centroids"  # the objective's buffer (K, D) in the flat layout, moved by no step
LOCAL_CENTROIDS = 16  # that a device sends: none stands for fewer than an eighth of 128 samples
SHARPNESS = 25.0
_TOLERANCE = 1e-2
_LOCAL_ITERATIONS = 5


def unit(rows: npt.NDArray[np.floating]) -> Rows:
    """Rows (N, D) at unit length; zero rows stay."""
    values = rows.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


def balanced(scores: Rows, most: int) -> Rows:
    """Assign N samples softly to K clusters of equal size (Sinkhorn-Knopp).

    `scores` (N, K) are similarities. Returns (N, K) whose columns sum to about N / K, rows to 1; iterated until the
    rows' scale changes by less than 1 % in all, at `most` that often.
    """
    n, k = scores.shape
    q = np.exp(SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    q /= q.sum(axis=1, keepdims=True)
    rows = np.full(n, 1.0 / n)
    for _ in range(most):
        columns = 1.0 / (k * np.maximum(rows @ q, 1e-300))
        following = 1.0 / (n * np.maximum(q @ columns, 1e-300))
        moved = np.abs(following / rows - 1.0).sum()
        rows = following
        if moved < _TOLERANCE:
            break
    return n * rows[:, None] * q * columns


def local_centroids(projections: npt.NDArray[np.floating], count: int, rng: np.random.Generator) -> Rows:
    """`count` unit centroids (count, D) of a device's projections (N, D), N >= count, clusters of about equal size."""
    rows = unit(projections)
    centroids = rows[rng.choice(len(rows), count, replace=False)]
    for _ in range(_LOCAL_ITERATIONS):
        cluster = balanced(rows @ centroids.T, 10).argmax(axis=1)
        for i in range(count):
            members = rows[cluster == i]
            if len(members) == 0:
                members = rows[rng.integers(len(rows))][None]
            centroids[i] = members.mean(axis=0)
        centroids = unit(centroids)
    return centroids


def global_centroids(pool: Rows, centroids: Rows, *, steps: int, lr: float, temperature: float) -> Rows:
    """Move unit `centroids` (K, D) so that the pooled local ones (N, D) are predicted as they are balanced.

    Gradient descent on -mean cos(balanced(pool C'), softmax(pool C' / temperature)); rows are normalised each step.
    """
    rows = unit(pool)
    for _ in range(steps):
        target = balanced(rows @ centroids.T, 100)
        centroids = unit(centroids - lr * disagreement_gradient(rows, centroids, target, temperature))
    return centroids


def disagreement_gradient(rows: Rows, centroids: Rows, target: Rows, temperature: float) -> Rows:
    """The gradient (K, D) of -mean_i cos(target_i, softmax(rows_i C' / temperature)) by C."""
    logits = rows @ centroids.T / temperature
    q = np.exp(logits - logits.max(axis=1, keepdims=True))
    q /= q.sum(axis=1, keepdims=True)
    length_q, length_p = np.linalg.norm(q, axis=1, keepdims=True), np.linalg.norm(target, axis=1, keepdims=True)
    cos = (q * target).sum(axis=1, keepdims=True) / (length_q * length_p)
    by_q = target / (length_q * length_p) - cos * q / length_q**2
    by_logits = q * (by_q - (q * by_q).sum(axis=1, keepdims=True))
    out: Rows = -by_logits.T @ rows / (temperature * len(rows))
    return out


def centroids_of(layout: Sequence[ParameterEntry]) -> ParameterEntry:
    """Where the centroids lie; FederationError where the model has none."""
    for entry in layout:
        if entry.name == CENTROIDS and entry.shape[0] >= LOCAL_CENTROIDS:
            return entry
    raise FederationError(
        f"orchestra needs a bundle of objective 'orchestra', whose layout has {CENTROIDS} of {LOCAL_CENTROIDS} rows or "
        "more; pretrain one"
    )
