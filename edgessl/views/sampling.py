"""Reading images at fractional coordinates by matrix products: one matrix per sample and axis.

Batched matrix products are what stock onnxruntime does fastest, and a crop, a translation and a blur are
separable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def indices(size: int, like: Tensor) -> Tensor:
    """0, 1, ..., size - 1 with the dtype and device of `like`."""
    return torch.arange(size, dtype=like.dtype, device=like.device)


def bilinear(source: Tensor, size: int) -> Tensor:
    """Matrices (N, len, size) that read a line of `size` pixels at the coordinates `source` (N, len).

    Linear between neighbours, weight max(0, 1 - distance); beyond the ends the end is repeated.
    """
    source = source.clamp(0, size - 1)
    return (1 - (source.unsqueeze(-1) - indices(size, source)).abs()).clamp(min=0)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for every channel of x (N, C, H, W); rows (N, H, H), columns (N, W, W)."""
    return torch.matmul(torch.matmul(rows.unsqueeze(1), x), columns.transpose(1, 2).unsqueeze(1))


def window(fraction: Tensor, position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Start and length (N, 1), in pixels, of a window over `fraction` of an axis of `size` pixels.

    At least one pixel and at most the whole axis; `position` in [0, 1) says where in the free room it lies.
    """
    length = (size * fraction).clamp(1, size)
    return (position * (size - length)).unsqueeze(1), length.unsqueeze(1)
