"""Normalisation layers for traced training steps: no buffer is ever updated in place."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError, InputError

GROUPS = 4


class BatchNorm(nn.Module):
    """Batch normalisation of (N, D), (N, C, T) and (N, C, H, W) maps as a pure function.

    In train mode it normalises with the batch's mean and biased variance, in float32 or wider, and leaves
    `(mean, unbiased variance)`, detached, for `collect_batch_statistics`; the caller decides how the running
    statistics follow. In eval mode it normalises with `running_mean` and `running_var`.
    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167

    Args:
        channels: size of axis 1.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.batch_statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each channel; same shape and dtype as `x`.

        Raises:
            InputError: in train mode, a channel has a single value, which has no variance.
        """
        if not self.training:
            # one BatchNormalization node in ONNX; without training it updates nothing
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = x.numel() // x.shape[1]
        if count < 2:
            raise InputError(
                "batch norm in train mode: expected 2 values per channel or more, found 1 "
                f"in {tuple(x.shape)}; use a larger batch, or norm 'group'"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [0, *range(2, x.dim())]
        per_channel = (1, -1) + (1,) * (x.dim() - 2)
        mean = wide.mean(axes)
        centered = wide - mean.reshape(per_channel)
        var = (centered * centered).mean(axes)
        self.batch_statistics = (mean.detach(), (var * (count / (count - 1))).detach())
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centered * scale.reshape(per_channel) + self.bias.reshape(per_channel)).to(x.dtype)


def make_norm(kind: str, channels: int) -> nn.Module:
    """A norm over axis 1 of a map with `channels` channels.

    Args:
        kind: "group" (4 groups, or the largest power of two below that divides the channels; a sample never
            sees its batch; Wu and He 2018, https://arxiv.org/abs/1803.08494) or "batch" (`BatchNorm`).
        channels: size of axis 1.

    Raises:
        ConfigError: another kind.
    """
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if kind == "batch":
        return BatchNorm(channels)
    raise ConfigError(f"unknown norm {kind!r}; convolutional encoders take group, batch")


class ConvNorm(nn.Module):
    """`relu(norm(conv(x)))`: the pair that batch-norm folding merges.

    Args:
        conv: a convolution without bias, which the norm would cancel.
        norm: kind of norm, see `make_norm`.
        relu: False leaves the ReLU out.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, norm: str, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = make_norm(norm, conv.out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, ...) to (N, out_channels, ...)."""
        y: Tensor = self.norm(self.conv(x))
        return F.relu(y) if self.relu else y


def collect_batch_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Takes, and clears, what the last train-mode pass left in each `BatchNorm` of `module`.

    Returns:
        `<path>.running_mean` and `<path>.running_var` (unbiased), each (C,), named like the buffers that they
        should move; empty without batch norms or after an eval pass. Inside `torch.func` transforms, call it
        before the transformed function returns and hand the result out as auxiliary output.
    """
    statistics: dict[str, Tensor] = {}
    for path, child in module.named_modules():
        if isinstance(child, BatchNorm) and child.batch_statistics is not None:
            prefix = f"{path}." if path else ""
            statistics[f"{prefix}running_mean"], statistics[f"{prefix}running_var"] = child.batch_statistics
            child.batch_statistics = None
    return statistics


def fold_batch_norm(encoder: Encoder) -> Encoder:
    """A copy in eval mode whose convolutions carry their batch norms as scaled weights and a bias.

    The copy computes what `encoder.eval()` computes, to rounding. Group norms depend on the sample and stay.
    """
    folded = copy.deepcopy(encoder).eval()
    for module in folded.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, BatchNorm):
            _fold(module.conv, module.norm)
            module.norm = nn.Identity()
    return folded


@torch.no_grad()
def _fold(conv: nn.Conv1d | nn.Conv2d, norm: BatchNorm) -> None:
    # float64, so that folding rounds once
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * scale.reshape((-1,) + (1,) * (conv.weight.dim() - 1))
    bias = norm.bias.double() - norm.running_mean.double() * scale
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
