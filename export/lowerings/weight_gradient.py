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

    Against nine copies 169 -> 136 ms of ResNet-8; rows by one copy instead of four, 32 channels of 16x16, 32 samples,
    1 / 2 threads: 7.7/5.9 -> 7.2/5.1 ms.
    """
    columns = torch.cat(_shifted_columns(x), 1).reshape(sizes.n, 3 * sizes.c_in, -1)
    product = torch.bmm(_shifted_rows(grad, sizes), columns.transpose(1, 2))
    return product.sum(0).reshape(sizes.c_out, 3, 3, sizes.c_in).permute(0, 3, 1, 2)


def by_column(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """As `separable`, a GEMM of 3Co x Ci for each column of the kernel: what is shifted in `x` is not copied together.

    16 channels of 32x32, 32 samples, 1 / 2 threads: `separable` 6.4/5.3, this 5.6/4.4 ms; 32 of 16x16: 7.2/5.1 and
    7.2/6.3.
    """
    rows = _shifted_rows(grad, sizes)
    taps = [torch.bmm(rows, c.reshape(sizes.n, sizes.c_in, -1).transpose(1, 2)).sum(0) for c in _shifted_columns(x)]
    return torch.stack(taps, 1).reshape(sizes.c_out, 3, 3, sizes.c_in).permute(0, 3, 1, 2)


def _shifted_columns(x: Tensor) -> list[Tensor]:
    """`x` `(N, C, H, W)` as each column of a 3x3 kernel meets it, with a row of padding: 3 x `(N, C, H + 2, W)`."""
    return [aten.constant_pad_nd(x, [1 - j, j - 1, 1, 1], 0.0) for j in range(3)]


def _shifted_rows(grad: Tensor, sizes: Convolution) -> Tensor:
    """`grad` as each row of a 3x3 kernel meets padded `x`, `(N, 3Co, (H + 2) * W)`, row by row of the kernel.

    Three rows of zeros between copies `H + 2` rows apart: each begins a row later in its part than the one before.
    """
    zeros = torch.zeros(sizes.n, sizes.c_out, 3, sizes.size[1], dtype=grad.dtype)
    return torch.cat([grad, zeros, grad, zeros, grad], 2).reshape(sizes.n, 3 * sizes.c_out, -1)


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
