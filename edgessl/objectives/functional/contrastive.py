"""Contrastive losses: the positive against other samples, in the batch or in a queue."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.objectives.functional.rows import normalize, require_rows

_MASKED = -1e9  # a logit that leaves the softmax; finite, so that no graph has to carry an infinity


def nt_xent_loss(z_a: Tensor, z_b: Tensor, temperature: float | Tensor = 0.5) -> Tensor:
    """Normalised-temperature cross-entropy of SimCLR (Chen et al. 2020, eq. 1), mean over the 2N anchors.

    Args:
        z_a: embeddings of view a, `(N, D)`.
        z_b: embeddings of view b, `(N, D)`; row i is the positive of row i of `z_a`.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar loss.

    Raises:
        InputError: N < 2; a sample alone has no negatives.
    """
    require_rows(z_a, 2, "nt_xent_loss")
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


def in_batch_nce_loss(q: Tensor, k: Tensor, temperature: float | Tensor = 0.2) -> Tensor:
    """InfoNCE with the batch's other keys as negatives: MoCo v3 (Chen et al. 2021, eq. 1) and NNCLR
    (Dwibedi et al. 2021).

    The queries are contrasted with the keys alone, not with each other as NT-Xent does, and the positive stays in the
    denominator. One direction; callers add the other. MoCo v3's code multiplies by `2 * temperature`, which the caller
    does too: it is not part of InfoNCE.

    Args:
        q: queries `(N, D)`; k: keys `(N, D)`, row i the positive of query i.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar loss, mean over the N queries. Both are normalised here.

    Raises:
        InputError: N < 2.
    """
    require_rows(q, 2, "in_batch_nce_loss")
    q, k = normalize(q), normalize(k)
    positive = (q * k).sum(dim=1) / temperature
    return torch.logsumexp(q @ k.T / temperature, dim=1).mean() - positive.mean()


def dcl_loss(z_a: Tensor, z_b: Tensor, temperature: float | Tensor = 0.5, queue: Tensor | None = None) -> Tensor:
    """Decoupled contrastive loss (Yeh et al. 2022): NT-Xent without the positive in the denominator.

    With it there, the gradient of every anchor is multiplied by one minus the softmax of its positive, which is small
    in small batches. The negatives of both views share ONE logarithm of a sum of exponentials, as in the paper's
    U_1 + U_2; some implementations add two logarithms instead, which is another loss (1.873 for our 0.672 on the
    reference input). May be negative.

    Args:
        z_a, z_b: embeddings of the two views `(N, D)`; row i of one is the positive of row i of the other.
        temperature: softmax temperature, > 0.
        queue: more negatives `(K, D)`, unit rows, for every anchor; None for the batch's alone.

    Returns:
        Scalar loss, mean over the 2N anchors. `z_a` and `z_b` are normalised here; `queue` is used as it is.

    Raises:
        InputError: N < 2 without a queue; a sample alone has no negatives.
    """
    if queue is None:
        require_rows(z_a, 2, "dcl_loss")
    z_a, z_b = normalize(z_a), normalize(z_b)
    z = torch.cat([z_a, z_b])
    same_sample = torch.eye(z_a.shape[0], dtype=z.dtype, device=z.device).repeat(2, 2)
    negatives = z @ z.T / temperature + _MASKED * same_sample
    if queue is not None:
        negatives = torch.cat([negatives, z @ queue.T / temperature], dim=1)
    positive = (z_a * z_b).sum(dim=1) / temperature
    return torch.logsumexp(negatives, dim=1).mean() - positive.mean()
