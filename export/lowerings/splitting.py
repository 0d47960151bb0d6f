"""Splits as slices: an ONNX sequence costs more, and `theta` is split into its tensors this way. Padded vectors as
concatenations, for GPUs: ONNX Runtime's CUDA provider pads theta of a ResNet-18, 11 million numbers, in 1 ms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def split_with_sizes(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """`aten.split_with_sizes`."""
    starts = np.cumsum([0, *sizes])
    return [aten.slice.Tensor(x, dim, int(a), int(b)) for a, b in itertools.pairwise(starts)]


def pad_vector(x: Tensor, pad: list[int], value: float = 0.0) -> Any:
    """`aten.constant_pad_nd` of a vector that grows; NotImplemented leaves others as they are."""
    if x.ndim != 1 or min(pad) < 0:
        return NotImplemented
    before, after = (x.new_full((n,), value) for n in pad)
    return torch.cat([part for part in (before, x, after) if len(part)])
