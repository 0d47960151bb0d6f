"""What losses do to rows of embeddings before anything else."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.errors import InputError


def normalize(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Rows of `z` `(N, D)` scaled to unit L2 length."""
    return z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + eps * eps)


def centred(z: Tensor) -> Tensor:
    """Rows of `z` `(N, D)` minus their mean.

    Untrained networks embed all samples in a narrow cone, where cosines are near 1 whatever the sample: assignments and
    neighbours then say nothing, and several objectives never leave. Batch norm in the authors' heads prevents that;
    this does too, where the heads have none, and is the same on one process and on several, given gathered rows.
    """
    return z - z.mean(dim=0)


def standardized(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Columns of `z` `(N, D)` at mean 0 and biased variance 1: batch norm without gain, offset or running statistics.

    Args:
        z: embeddings, N >= 2.
        eps: added to the variance.
    """
    z = centred(z)
    return z / torch.sqrt(z.square().mean(dim=0) + eps)


def require_rows(z: Tensor, least: int, loss: str) -> None:
    """Refuse fewer than `least` rows of `z` `(N, D)`, which would give `loss` a number without meaning.

    Raises:
        InputError: names the loss and both numbers. Shapes are known when a step is traced, so graphs carry no check.
    """
    if z.shape[0] < least:
        raise InputError(f"{loss}: expected at least {least} samples, found {z.shape[0]}; use a larger batch")
