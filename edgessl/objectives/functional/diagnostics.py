"""Diagnostics that run inside the exported step; `edgessl.evaluate.collapse` has more, for offline use."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.objectives.functional.rows import normalize


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
