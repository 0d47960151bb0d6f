"""Redundancy reduction: statistics of the batch hold the embedding open."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.objectives.functional.rows import normalize, require_rows, standardized


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

    Raises:
        InputError: N < 2; a sample alone has no variance.
    """
    require_rows(z_a, 2, "vicreg_loss")
    var_a, cov_a = _variance_and_covariance(z_a, eps)
    var_b, cov_b = _variance_and_covariance(z_b, eps)
    mse = (z_a - z_b).square().mean()
    return invariance * mse + variance * 0.5 * (var_a + var_b) + covariance * (cov_a + cov_b)


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, redundancy: float | Tensor = 5e-3, eps: float = 1e-5) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021, eq. 1) in the official code's form.

    That is: batch-norm standardisation, with the *biased* variance (divisor N) and eps 1e-5 added to it, so that the
    diagonal of the correlation can reach 1. With the unbiased one and a division by N (stable-pretraining) it stops at
    (N-1)/N, which matters in small batches (0.2287 for 0.0482 on the reference input of 6 samples). Sums, not means;
    solo-learn and cassle multiply the whole by 0.1 or 0.025.

    Args:
        z_a, z_b: embeddings `(N, D)`, N >= 2.
        redundancy: the paper's lambda, the weight of the off-diagonal terms.
        eps: added to the variance.

    Returns:
        Scalar loss.

    Raises:
        InputError: N < 2; a sample alone has no correlation.
    """
    require_rows(z_a, 2, "barlow_twins_loss")
    z_a, z_b = standardized(z_a, eps), standardized(z_b, eps)
    correlation = z_a.T @ z_b / z_a.shape[0]
    diagonal = (z_a * z_b).mean(dim=0)
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1.0).square().sum() + redundancy * off_diagonal


def tico_loss(
    z_a: Tensor,
    z_b: Tensor,
    covariance: Tensor,
    contrast: float | Tensor = 8.0,
    decay: float | Tensor = 0.9,
) -> tuple[Tensor, Tensor]:
    """TiCo (Zhu et al. 2022, arXiv 2206.10698, algorithm 1): agree with a view, avoid the directions that all take.

    The batch's second moment enters the moving one with its gradient *before* the loss reads it, as in the paper's
    algorithm; the loss is one-sided, view b being a teacher's. Its "covariance" is not centred.

    Args:
        z_a: embeddings of view a `(N, D)`; z_b: a teacher's of view b `(N, D)`. Both are normalised here.
        covariance: the moving second moment `(D, D)` so far; zeros at the start.
        contrast: the paper's rho (8; lightly's default is 20), the weight of the second term.
        decay: the paper's beta, the share of the moment that is kept.

    Returns:
        The scalar loss, and the new second moment `(D, D)`, detached.
    """
    z_a, z_b = normalize(z_a), normalize(z_b)
    moment = decay * covariance + (1 - decay) * (z_a.T @ z_a / z_a.shape[0])
    spread = ((z_a @ moment) * z_a).sum(dim=1).mean()
    return 1.0 - (z_a * z_b).sum(dim=1).mean() + contrast * spread, moment.detach()


def _variance_and_covariance(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    n, d = z.shape
    centred = z - z.mean(dim=0)
    cov = centred.T @ centred / (n - 1)
    squared_norm = cov.square().sum()
    diagonal = centred.square().sum(dim=0) / (n - 1)
    std = torch.sqrt(diagonal + eps)
    return F.relu(1.0 - std).mean(), (squared_norm - diagonal.square().sum()) / d
