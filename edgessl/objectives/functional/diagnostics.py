"""Diagnostics of embeddings: collapse, alignment, uniformity. All of them have an ONNX form."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.objectives.functional.rows import normalize, require_rows


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


def alignment(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean squared distance of the two views' unit-length rows, `(N, D)` each (Wang & Isola 2020, alpha = 2).

    0 when both views embed alike, 2 for unrelated ones; BYOL's loss is the same number.
    """
    return (normalize(z_a) - normalize(z_b)).square().sum(dim=1).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of pairs of unit-length rows of `z` `(N, D)` (Wang & Isola 2020).

    0 when all rows are the same; -2t for orthogonal rows; the lower, the more evenly spread.

    Raises:
        InputError: N < 2; there are no pairs.
    """
    require_rows(z, 2, "uniformity")
    z = normalize(z)
    n = z.shape[0]
    itself = torch.eye(n, dtype=z.dtype, device=z.device)
    potential = torch.exp(-t * (2.0 - 2.0 * z @ z.T)) * (1.0 - itself)
    return torch.log(potential.sum() / (n * (n - 1)))
