"""What losses do to rows of embeddings before anything else."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.errors import InputError


def normalize(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Rows of `z` `(N, D)` scaled to unit L2 length."""
    return z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + eps * eps)


def require_rows(z: Tensor, least: int, loss: str) -> None:
    """Refuse fewer than `least` rows of `z` `(N, D)`, which would give `loss` a number without meaning.

    Raises:
        InputError: names the loss and both numbers. Shapes are known when a step is traced, so graphs carry no check.
    """
    if z.shape[0] < least:
        raise InputError(f"{loss}: expected at least {least} samples, found {z.shape[0]}; use a larger batch")
