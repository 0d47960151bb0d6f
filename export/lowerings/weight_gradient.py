"""Weight gradients of dense convolutions as GEMMs.

A convolution used as weight gradient (kernel as large as the map) takes five times its forward's time in MLAS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.lowerings.geometry import Convolution

aten = torch.ops.aten


def pointwise(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """1x1: one batched GEMM and a sum over the batch (DS-CNN: -2.9 ms against a convolution)."""
    x = x[:, :, :: sizes.stride[0], :: sizes.stride[1]]
    per_sample = torch.bmm(grad.reshape(sizes.n, sizes.c_out, -1), x.reshape(sizes.n, sizes.c_in, -1).transpose(1, 2))
    return per_sample.sum(0).reshape(sizes.c_out, sizes.c_in, 1, 1)


def separable(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """3x3, stride 1, padding 1: columns shifted in `x`, rows in `grad`, one GEMM of 3Co x 3Ci per sample.

    Six copies instead of nine (ResNet-8: 169 -> 136 ms against a convolution).
    """
    n, c_in, (height, width) = sizes.n, sizes.c_in, sizes.size
    columns = torch.cat([aten.constant_pad_nd(x, [1 - j, j - 1, 1, 1], 0.0) for j in range(3)], 1)
    rows = torch.cat([aten.constant_pad_nd(grad, [0, 0, i, 2 - i], 0.0) for i in range(3)], 1)
    length = (height + 2) * width
    product = torch.bmm(rows.reshape(n, 3 * sizes.c_out, length), columns.reshape(n, -1, length).transpose(1, 2))
    return product.sum(0).reshape(3, sizes.c_out, 3, c_in).permute(1, 3, 0, 2)


def columns(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """Any kernel: channels first, shifted columns side by side, then one GEMM over all samples per kernel row.

    Against one GEMM per tap (1 / 2 threads, Zen 2): 64 channels of 8x8, 3x3, 32 samples: 4.1/3.8 -> 3.6/2.8 ms.
    """
    (kh, kw), (oh, ow) = sizes.kernel, sizes.out
    (top, left), (dy, dx), (sy, sx) = sizes.padding, sizes.dilation, sizes.stride
    padded = aten.constant_pad_nd(x.transpose(0, 1), [left, left, top, top], 0.0)
    width, height = (ow - 1) * sx + 1, (oh - 1) * sy + 1
    shifted = torch.cat([padded[:, :, :, j * dx : j * dx + width : sx] for j in range(kw)], 0)
    g = grad.transpose(0, 1).reshape(sizes.c_out, -1)
    bands = [shifted[:, :, i * dy : i * dy + height : sy].reshape(kw * sizes.c_in, -1) for i in range(kh)]
    products = torch.stack([torch.mm(g, band.t()) for band in bands], 1)
    return products.reshape(sizes.c_out, kh, kw, sizes.c_in).permute(0, 3, 1, 2)


def patches(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """Any kernel: all shifted copies (im2col), then one GEMM per sample; for a few input channels."""
    (kh, kw), (oh, ow) = sizes.kernel, sizes.out
    (top, left), (dy, dx), (sy, sx) = sizes.padding, sizes.dilation, sizes.stride
    padded = aten.constant_pad_nd(x, [left, left, top, top], 0.0)
    height, width = (oh - 1) * sy + 1, (ow - 1) * sx + 1
    shifted = [
        padded[:, :, i * dy : i * dy + height : sy, j * dx : j * dx + width : sx] for i in range(kh) for j in range(kw)
    ]
    stacked = torch.cat(shifted, 1).reshape(sizes.n, kh * kw * sizes.c_in, oh * ow)
    product = torch.bmm(grad.reshape(sizes.n, sizes.c_out, -1), stacked.transpose(1, 2)).sum(0)
    return product.reshape(sizes.c_out, kh, kw, sizes.c_in).permute(0, 3, 1, 2)
