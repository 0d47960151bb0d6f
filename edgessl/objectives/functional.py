"""Self-supervised losses as pure functions of embeddings: any float dtype, any device, no state.

Where authors differ, the form used here is named; reference values are in `tests/objectives`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_MASKED = -1e9  # a logit that leaves the softmax; finite, so that no graph has to carry an infinity


def normalize(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Rows of `z` `(N, D)` scaled to unit L2 length."""
    return z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + eps * eps)


def nt_xent_loss(z_a: Tensor, z_b: Tensor, temperature: float | Tensor = 0.5) -> Tensor:
    """Normalised-temperature cross-entropy of SimCLR (Chen et al. 2020, eq. 1), mean over the 2N anchors.

    Args:
        z_a: embeddings of view a, `(N, D)`.
        z_b: embeddings of view b, `(N, D)`; row i is the positive of row i of `z_a`.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar loss.
    """
    z_a, z_b = normalize(z_a), normalize(z_b)
    z = torch.cat([z_a, z_b])
    logits = z @ z.T / temperature
    itself = torch.eye(z.shape[0], dtype=z.dtype, device=z.device)
    normaliser = torch.logsumexp(logits + _MASKED * itself, dim=1)
    positive = (z_a * z_b).sum(dim=1) / temperature
    return normaliser.mean() - positive.mean()


def info_nce_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float | Tensor = 0.2) -> Tensor:
    """InfoNCE of MoCo (He et al. 2020, eq. 1): the positive key against a queue of negatives.

    Args:
        q: queries `(N, D)`; k: their positive keys `(N, D)`; queue: negatives `(K, D)`, unit rows.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar loss, mean over the N queries. `q` and `k` are normalised here; `queue` is used as it is.
    """
    q, k = normalize(q), normalize(k)
    positive = (q * k).sum(dim=1, keepdim=True) / temperature
    negatives = q @ queue.T / temperature
    return (torch.logsumexp(torch.cat([positive, negatives], dim=1), dim=1, keepdim=True) - positive).mean()


def negative_cosine_loss(p: Tensor, z: Tensor) -> Tensor:
    """Mean negative cosine similarity of rows (SimSiam, eq. 1; BYOL's loss is `2 + 2 x` this). In [-1, 1]."""
    return -(normalize(p) * normalize(z)).sum(dim=1).mean()


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    invariance: float | Tensor = 25.0,
    variance: float | Tensor = 25.0,
    covariance: float | Tensor = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """VICReg (Bardes et al. 2022, eq. 6) in the official code's form.

    That is: unbiased variance (divisor N-1), hinge at 1, the variance term *averaged* over the two views (solo-learn
    and cassle sum it: their variance weight counts double), the covariance term summed over them.

    Args:
        z_a, z_b: embeddings `(N, D)`, N >= 2.
        invariance, variance, covariance: the three weights.
        eps: added to the variance before the root.

    Returns:
        Scalar loss.
    """
    var_a, cov_a = _variance_and_covariance(z_a, eps)
    var_b, cov_b = _variance_and_covariance(z_b, eps)
    mse = (z_a - z_b).square().mean()
    return invariance * mse + variance * 0.5 * (var_a + var_b) + covariance * (cov_a + cov_b)


def _variance_and_covariance(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    n, d = z.shape
    centred = z - z.mean(dim=0)
    cov = centred.T @ centred / (n - 1)
    squared_norm = cov.square().sum()
    diagonal = centred.square().sum(dim=0) / (n - 1)
    std = torch.sqrt(diagonal + eps)
    return F.relu(1.0 - std).mean(), (squared_norm - diagonal.square().sum()) / d


def embedding_std(h: Tensor) -> Tensor:
    """Mean per-dimension standard deviation of the unit-length rows of `h` `(N, D)`, times sqrt(D).

    About 1 for isotropic embeddings, 0 when all rows are the same (the collapse measure of SimSiam, section 4.1).
    """
    unit = normalize(h)
    centred = unit - unit.mean(dim=0)
    return torch.sqrt(centred.square().mean(dim=0) + 1e-12).mean() * float(h.shape[1]) ** 0.5


def effective_rank(h: Tensor) -> Tensor:
    """Participation ratio of the covariance spectrum of `h` `(N, D)`: `(tr C)^2 / tr C^2`, in [1, min(N-1, D)].

    An effective rank that needs no eigenvalues, so it runs inside the exported step; `edgessl.evaluate.rankme` is the
    entropy-based one for offline use.
    """
    centred = h - h.mean(dim=0)
    gram = centred @ centred.T if h.shape[0] < h.shape[1] else centred.T @ centred
    trace = centred.square().sum()
    return trace.square() / (gram.square().sum() + 1e-12)
