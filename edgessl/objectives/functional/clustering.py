"""Clustering losses: agree on which prototype a sample belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.objectives.functional.rows import normalize


def sinkhorn(scores: Tensor, epsilon: float | Tensor = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignment of samples to prototypes that uses every prototype equally (Caron et al. 2020, eq. 3-5).

    Computed in logarithms, so that neither large scores nor a small epsilon overflow; the reference code exponentiates
    first and gives the same numbers where it does not.

    Args:
        scores: similarities `(N, K)` of samples and prototypes; no gradient is wanted through the result.
        epsilon: entropy of the assignment, > 0; smaller is harder.
        iterations: Sinkhorn-Knopp steps; each scales prototypes, then samples.

    Returns:
        `(N, K)`, every row a distribution (exactly, being scaled last); columns sum to about N / K.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, dim=0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return torch.exp(log_q)


def swav_loss(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float | Tensor = 0.1) -> Tensor:
    """Swapped prediction of SwAV (Caron et al. 2020, eq. 1-2): every view predicts the codes of every other.

    The codes of each global view are computed by themselves (`sinkhorn(scores_v)`), as in the authors' code: codes of
    all views at once (stable-pretraining, 0.788 for 0.666 on the reference input) balance the prototypes over a batch
    that holds every sample twice. With a queue, they are the last N rows of `sinkhorn(cat([queue scores, scores]))`.

    Args:
        scores: similarities `(N, K)` of samples and prototypes, one per view, the global views first.
        codes: assignments `(N, K)` of the global views; no gradient.
        temperature: of the predictions, > 0.

    Returns:
        Scalar cross-entropy, mean over samples and over pairs of a code and another view.
    """
    return cross_view_entropy([s / temperature for s in scores], codes)


def cross_view_entropy(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy between each of `targets` and the softmax of each of `logits` but the one of its own view.

    Args:
        logits: `(N, K)` per view, the views that have a target first.
        targets: distributions `(N, K)` of the first `len(targets)` views.
    """
    total = logits[0].new_zeros(())
    for j, view in enumerate(logits):
        others = [target for i, target in enumerate(targets) if i != j]
        if others:
            wanted = torch.stack(others).sum(dim=0)
            total = total - (wanted * F.log_softmax(view, dim=1)).sum(dim=1).mean()
    return total / (len(targets) * (len(logits) - 1))


def minibatch_kmeans(
    centroids: Tensor,
    counts: Tensor,
    rows: Tensor,
    decay: float | Tensor = 1.0,
    reseed: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of mini-batch k-means (Sculley 2010, algorithm 1) on the sphere, with clusters that may be born again.

    Sculley moves a centroid to each of its rows in turn with rate 1 / count, which is the running mean of all rows it
    ever had; `decay` 1 and `reseed` 0 are that. Embeddings drift while they are learned, so `decay` forgets old rows,
    and a cluster that lost its share is put on the row that fits its own centroid worst (the worst row to the first
    such cluster, the next to the second ...).

    Args:
        centroids: `(K, D)`, running means; nearest is by cosine.
        counts: `(K,)`, rows that each stands for.
        rows: unit rows `(N, D)`.
        decay: share of the old counts that is kept, in (0, 1].
        reseed: a cluster is empty below this share of the mean count.

    Returns:
        The new centroids and counts, and the assignment `(N, K)` of the rows to the *old* centroids, one-hot.
    """
    similarity = rows @ normalize(centroids).T
    fit, nearest = similarity.max(dim=1)
    assignment = (nearest.unsqueeze(1) == torch.arange(centroids.shape[0], device=rows.device)).to(rows.dtype)
    members = assignment.sum(dim=0)
    counts = decay * counts + members
    pull = assignment.T @ rows - members.unsqueeze(1) * centroids
    centroids = centroids + pull / (counts.unsqueeze(1) + 1e-12)

    empty = (counts < reseed * counts.mean()).to(rows.dtype)
    rank = torch.cumsum(empty, dim=0) - 1.0
    worst = rows.index_select(0, torch.argsort(fit))
    seat = torch.arange(rows.shape[0], dtype=rows.dtype, device=rows.device)
    seeds = (rank.unsqueeze(1) == seat).to(rows.dtype) * empty.unsqueeze(1)  # (K, N); no row for the N+1st empty one
    reborn = seeds.sum(dim=1)
    centroids = centroids * (1.0 - reborn).unsqueeze(1) + seeds @ worst
    counts = counts + reborn * (counts.mean() - counts)
    return centroids, counts, assignment
