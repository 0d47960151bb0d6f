"""Splits as slices: an ONNX sequence costs more, and `theta` is split into its tensors this way."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def split_with_sizes(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """`aten.split_with_sizes`."""
    starts = np.cumsum([0, *sizes])
    return [aten.slice.Tensor(x, dim, int(a), int(b)) for a, b in itertools.pairwise(starts)]
