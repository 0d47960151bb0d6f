"""Quantization-aware training: layers that round in train mode as the integer encoder will, and pass gradients through.

The rounding is a pure function of weights and batch (ranges are the batch's own), so it traces into the training step
of a device as well. In evaluation mode the layers are plain ones: what is exported and quantized is the float encoder.
Jacob et al. 2018, https://arxiv.org/abs/1712.05877; straight-through gradients, Bengio et al. 2013,
https://arxiv.org/abs/1308.3432
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError

TINY = 1e-8  # of a scale: a channel of zeros

_rounding: ContextVar[bool] = ContextVar("rounding", default=True)


@contextmanager
def without_rounding() -> Iterator[None]:
    """Within, nothing is rounded: everything else of quantization-aware training can be compared between runtimes.

    A value within float error of the middle between two levels goes to one in one runtime and to the other in another,
    and what follows differs by a level; no tolerance for float error fits that.
    """
    token = _rounding.set(False)
    try:
        yield
    finally:
        _rounding.reset(token)


def round_level(x: Tensor) -> Tensor:
    """`x` rounded to whole numbers, half to even."""
    return torch.round(x) if _rounding.get() else x


def round_through(x: Tensor) -> Tensor:
    """`round_level`, but with the gradient of `x`."""
    return x + (round_level(x) - x).detach()


def rounds(module: nn.Module) -> bool:
    """Whether a part of `module` rounds in train mode."""
    return any(isinstance(part, _Rounding) for part in module.modules())


def fake_quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """`weight` (C, ...) on symmetric levels of `bits`, one scale per channel along axis 0, the largest value exact.

    A batch norm that is folded in later scales whole channels, so the levels stay these.
    """
    limit = (1 << (bits - 1)) - 1
    most = weight.detach().abs().reshape(weight.shape[0], -1).amax(1)
    scale = (most / limit).clamp(min=TINY).reshape(-1, *[1] * (weight.dim() - 1))
    return round_through(weight / scale) * scale


def fake_quantize_activation(x: Tensor, bits: int) -> Tensor:
    """`x` on levels of `bits` that cover the batch's smallest and largest value and 0; any shape."""
    flat = x.detach().reshape(-1)
    low, high = flat.amin(0).clamp(max=0), flat.amax(0).clamp(min=0)
    scale = ((high - low) / ((1 << bits) - 1)).clamp(min=TINY)
    zero = round_level(-low / scale)
    return (round_through(x / scale + zero) - zero) * scale


class _Rounding(nn.Module):
    """What the layers below share: the numbers of bits."""

    weight_bits: int
    activation_bits: int

    def rounded(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as the integer layer has them."""
        return fake_quantize_activation(x, self.activation_bits), fake_quantize_weight(weight, self.weight_bits)


class RoundedConv1d(nn.Conv1d, _Rounding):
    """A convolution whose input and weight are rounded in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, T) like nn.Conv1d."""
        if not self.training:
            return super().forward(x)
        return self._conv_forward(*self.rounded(x, self.weight), self.bias)


class RoundedConv2d(nn.Conv2d, _Rounding):
    """A convolution whose input and weight are rounded in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) like nn.Conv2d."""
        if not self.training:
            return super().forward(x)
        return self._conv_forward(*self.rounded(x, self.weight), self.bias)


class RoundedLinear(nn.Linear, _Rounding):
    """A linear layer whose input and weight are rounded in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) like nn.Linear."""
        if not self.training:
            return super().forward(x)
        return F.linear(*self.rounded(x, self.weight), self.bias)


_ROUNDED: dict[type[nn.Module], type[_Rounding]] = {
    nn.Conv1d: RoundedConv1d,
    nn.Conv2d: RoundedConv2d,
    nn.Linear: RoundedLinear,
}


def quantization_aware(encoder: Encoder, weight_bits: int = 8, activation_bits: int = 8) -> Encoder:
    """Makes every convolution and linear layer of `encoder` round in train mode, in place; parameters stay as they are.

    Raises:
        ConfigError: bits out of 2 to 8, or nothing to round.
    """
    for what, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        if not 2 <= bits <= 8:
            raise ConfigError(f"quantization-aware training: {what} {bits}: expected 2 to 8")
    found = [module for module in encoder.modules() if type(module) in _ROUNDED]
    if not found:
        raise ConfigError("quantization-aware training: this encoder has no convolution and no linear layer")
    for module in found:
        module.__class__ = _ROUNDED[type(module)]  # same tensors, same names, hence the same layout
        module.weight_bits, module.activation_bits = weight_bits, activation_bits  # type: ignore[assignment]
    return encoder
