"""Lowerings: aten operators of the traced step rewritten to what stock ONNX Runtime runs fast.

Each is a decomposition in plain aten operators, equal to torch's autograd (tests/export), with its measured effect. The
figures are milliseconds of one VICReg step, 2 x 32 samples, one thread of a Zen 4 core, 2026-11-20: model A is a
depthwise-separable CNN on 1x28x28, model B a ResNet-8 on 3x32x32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

from edgessl.errors import ExportError

aten = torch.ops.aten
_FEW_CHANNELS = 8  # below this a GEMM per tap degenerates to a matrix-vector product


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's core decompositions with ours in place of the ones that are slow or missing."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.split_with_sizes.default] = split_with_sizes
    group_norm = GroupNormLowering()
    table[aten.native_group_norm.default] = group_norm.forward
    table[aten.native_group_norm_backward.default] = group_norm.backward
    return table


def split_with_sizes(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor]:
    """Slices instead of an ONNX sequence; `theta` is split into its tensors this way."""
    starts = np.cumsum([0, *sizes])
    return [aten.slice.Tensor(x, dim, int(a), int(b)) for a, b in itertools.pairwise(starts)]


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a 1-D or 2-D convolution, as convolutions and GEMMs.

    A convolution used as weight gradient (kernel as large as the map) takes five times its forward's time in MLAS;
    the GEMM forms below took B from 169 to 136 ms and A from 18.7 to 14.1.
    """
    if transposed:
        raise ExportError("the step uses a transposed convolution, whose gradient has no lowering yet")
    grad_x = grad_weight = grad_bias = None
    if mask[0]:
        extra = [
            x.shape[2 + i]
            - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
            for i in range(len(stride))
        ]
        grad_x = aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups)
    if mask[1]:
        if x.ndim == 3:  # a 1-D convolution is a 2-D one on maps of height 1
            flat = weight_gradient(
                grad.unsqueeze(2),
                x.unsqueeze(2),
                (1, weight.shape[2]),
                (1, *stride),
                (0, *padding),
                (1, *dilation),
                groups,
            )
            grad_weight = flat.reshape(weight.shape)
        else:
            grad_weight = weight_gradient(
                grad, x, tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups
            )
    if mask[2]:
        grad_bias = grad.sum([0, *range(2, grad.ndim)])
    return grad_x, grad_weight, grad_bias


Pair = tuple[int, ...]


def weight_gradient(
    grad: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """Weight gradient `(Co, Ci/groups, kh, kw)` from `grad` `(N, Co, oh, ow)` and input `x` `(N, Ci, H, W)`."""
    c_in, c_out = x.shape[1], grad.shape[1]
    if groups == c_in == c_out and groups > 1 and tuple(dilation) == (1, 1):
        return _depthwise_toeplitz(grad, x, kernel, stride, padding)
    if groups > 1:
        pairs = zip(grad.chunk(groups, 1), x.chunk(groups, 1), strict=True)
        return torch.cat([weight_gradient(g, xs, kernel, stride, padding, dilation, 1) for g, xs in pairs])
    if kernel == (1, 1) and padding == (0, 0):
        return _pointwise(grad, x[:, :, :: stride[0], :: stride[1]])
    if kernel == (3, 3) and (stride, padding, dilation) == ((1, 1), (1, 1), (1, 1)) and c_in >= _FEW_CHANNELS:
        return _separable_3x3(grad, x)
    return _taps(grad, x, kernel, stride, padding, dilation)


def _pointwise(grad: Tensor, x: Tensor) -> Tensor:
    """1x1: one batched GEMM and a sum over the batch (A: -2.9 ms against a convolution)."""
    n, c_out, c_in = grad.shape[0], grad.shape[1], x.shape[1]
    per_sample = torch.bmm(grad.reshape(n, c_out, -1), x.reshape(n, c_in, -1).transpose(1, 2))
    return per_sample.sum(0).reshape(c_out, c_in, 1, 1)


def _separable_3x3(grad: Tensor, x: Tensor) -> Tensor:
    """3x3, stride 1, padding 1: columns shifted in x, rows in grad, one GEMM of 3Co x 3Ci (B: 169 -> 136 ms)."""
    n, c_in, height, width = x.shape
    c_out = grad.shape[1]
    columns = torch.cat([aten.constant_pad_nd(x, [1 - j, j - 1, 1, 1], 0.0) for j in range(3)], 1)
    rows = torch.cat([aten.constant_pad_nd(grad, [0, 0, i, 2 - i], 0.0) for i in range(3)], 1)
    length = (height + 2) * width
    product = torch.bmm(rows.reshape(n, 3 * c_out, length), columns.reshape(n, 3 * c_in, length).transpose(1, 2))
    return product.sum(0).reshape(3, c_out, 3, c_in).permute(1, 3, 0, 2)


def _taps(grad: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Any kernel: one GEMM per tap, or one over all taps where the input has few channels."""
    n, c_out, out_h, out_w = grad.shape
    c_in = x.shape[1]
    padded = aten.constant_pad_nd(x, [padding[1], padding[1], padding[0], padding[0]], 0.0)
    rows = [slice(i * dilation[0], i * dilation[0] + (out_h - 1) * stride[0] + 1, stride[0]) for i in range(kernel[0])]
    cols = [slice(j * dilation[1], j * dilation[1] + (out_w - 1) * stride[1] + 1, stride[1]) for j in range(kernel[1])]
    shifted = [padded[:, :, r, c] for r in rows for c in cols]
    if c_in < _FEW_CHANNELS:
        patches = torch.cat(shifted, 1).reshape(n, len(shifted) * c_in, out_h * out_w)
        product = torch.bmm(grad.reshape(n, c_out, -1), patches.transpose(1, 2)).sum(0)
        return product.reshape(c_out, *kernel, c_in).permute(0, 3, 1, 2)
    g = grad.transpose(0, 1).reshape(c_out, -1)
    taps = [torch.mm(g, s.transpose(0, 1).reshape(c_in, -1).t()) for s in shifted]
    return torch.stack(taps, 2).reshape(c_out, c_in, *kernel)


def _depthwise_toeplitz(grad: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Depthwise: per channel the GEMM of all column pairs, then a constant 0/1 matrix sums the diagonals that a tap
    needs (A: 16.5 -> 14.1 ms)."""
    channels, (kh, kw) = x.shape[1], kernel
    n, out_h, out_w = grad.shape[0], grad.shape[2], grad.shape[3]
    padded = aten.constant_pad_nd(x.transpose(0, 1), [padding[1], padding[1], padding[0], padding[0]], 0.0)
    width = padded.shape[3]
    span = (out_h - 1) * stride[0] + 1
    rows = torch.cat([padded[:, :, i : i + span : stride[0], :] for i in range(kh)], 3)
    pairs = torch.bmm(
        rows.reshape(channels, n * out_h, kh * width).transpose(1, 2),
        grad.transpose(0, 1).reshape(channels, n * out_h, out_w),
    )
    gathered = torch.mm(
        pairs.reshape(channels * kh, width * out_w), _diagonals(width, out_w, kw, stride[1]).to(x.dtype)
    )
    return gathered.reshape(channels, 1, kh, kw)


def _diagonals(width: int, out_width: int, taps: int, stride: int) -> Tensor:
    """0/1 matrix `(width * out_width, taps)` that picks the (input column, output column) pairs a tap connects."""
    picks = np.zeros((width, out_width, taps), np.float32)
    for column in range(out_width):
        for tap in range(taps):
            picks[stride * column + tap, column, tap] = 1.0
    return torch.from_numpy(picks.reshape(width * out_width, taps))


class GroupNormLowering:
    """Group norm, forward and backward, around ONE LayerNormalization (A: 18.7 -> 16.1 ms, 570 -> 468 nodes).

    The backward standardises the input again: being the very expression of the forward pass, common-subexpression
    elimination merges the two, and the graph keeps xhat instead of saving it by hand. The backward operator is not told
    `eps`, so it is remembered from the forward call on the same shapes.
    """

    def __init__(self) -> None:
        self._eps: dict[tuple[int, int, int, int], float] = {}

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        n: int,
        c: int,
        hw: int,
        groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`aten.native_group_norm`: output and, per sample and group, mean and reciprocal standard deviation."""
        if self._eps.setdefault((n, c, hw, groups), eps) != eps:
            raise ExportError(f"two group norms over {c} channels of {hw} values differ in eps; give them the same")
        xhat, mean, rstd = _standardise(x, n, c, hw, groups, eps)
        weight = x.new_ones(c) if weight is None else weight
        bias = x.new_zeros(c) if bias is None else bias
        return _affine(xhat.reshape(x.shape), weight, bias), mean.reshape(n, groups), rstd.reshape(n, groups)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor | None,
        n: int,
        c: int,
        hw: int,
        groups: int,
        mask: list[bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """`aten.native_group_norm_backward`: gradients of input, gain and bias."""
        eps, per_group = self._eps[(n, c, hw, groups)], c // groups
        xhat, _, rstd_again = _standardise(x, n, c, hw, groups, eps)
        xhat, rstd = xhat.reshape(x.shape), rstd_again.reshape(n, groups)
        spatial = list(range(2, x.ndim))
        along = (grad * xhat).sum(spatial)  # (n, c)
        plain = grad.sum(spatial)
        gain = (x.new_ones(c) if weight is None else weight).reshape(1, groups, per_group)
        scale = rstd / (per_group * hw)
        pull = -(along.reshape(n, groups, per_group) * gain).sum(2) * scale
        shift = -(plain.reshape(n, groups, per_group) * gain).sum(2) * scale
        direct = (rstd.reshape(n, groups, 1) * gain).reshape(n, c, *[1] * len(spatial))
        grad_x = grad * direct + _affine(xhat, _per_channel(pull, per_group), _per_channel(shift, per_group))
        return grad_x, along.sum(0) if mask[1] else None, plain.sum(0) if mask[2] else None


def _standardise(x: Tensor, n: int, c: int, hw: int, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    length = (c // groups) * hw
    unit = torch.ones(length, dtype=x.dtype)
    return aten.native_layer_norm(x.reshape(n, groups, length), [length], unit, None, eps)


def _per_channel(per_group: Tensor, repeats: int) -> Tensor:
    n, groups = per_group.shape
    return per_group.reshape(n, groups, 1).expand(n, groups, repeats).reshape(n * groups * repeats)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x * scale + shift` per channel `(C,)` or per sample and channel `(N*C,)`, as one BatchNormalization operator
    (A: 17.4 -> 16.1 ms against a Mul and an Add)."""
    k = scale.shape[0]
    rows = x if k == x.shape[1] else x.reshape(1, k, *x.shape[2:])
    zeros, ones = torch.zeros(k, dtype=x.dtype), torch.ones(k, dtype=x.dtype)
    out = aten._native_batch_norm_legit_no_training(rows, scale, shift, zeros, ones, 0.0, 0.0)[0]
    return out.reshape(x.shape)
