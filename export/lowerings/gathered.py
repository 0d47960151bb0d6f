"""The weight gradient for GPUs: one Gather of all patches, then one GEMM.

One kernel where the other forms have a dozen copies. Milliseconds of ONNX Runtime 1.31.1's CUDA provider on an H200,
float32, 64 samples, 3x3, launches included (2026-11-27); `swapped` is one Conv with samples and channels exchanged, a
map-sized kernel, for which cuDNN has nothing fast; cuDNN's own is what torch calls, and ONNX cannot say:

    channels, map            gathered   columns   patches   separable   swapped   cuDNN's own
      3 ->  64, 32x32        0.08       0.18      0.19      0.18        0.27      0.06
     16 ->  16, 32x32        0.14       0.20      0.20      0.12        0.16      0.14
     64 ->  64, 32x32        0.37       0.46      0.42      0.38        0.61      0.23
     64 -> 128, 32x32, s. 2  0.18       0.26      0.27                  0.81      0.21
    256 -> 256, 8x8          0.20       0.28      0.35      0.34        0.42      0.12
    512 -> 512, 4x4          0.21       0.28      0.70      0.70        0.26      0.11
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.lowerings.geometry import Convolution

aten = torch.ops.aten


def weight_gradient(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """Any kernel, one group: rows of channels, pixels first, gathered into a row of all taps per output pixel."""
    (top, left), n = sizes.padding, sizes.n
    padded = aten.constant_pad_nd(x, [left, left, top, top], 0.0) if top or left else x
    height, width = padded.shape[2:]
    pixels = padded.permute(2, 3, 0, 1).reshape(height * width * n, sizes.c_in)
    # in the graph the index is a sum of short constants, which the runtime adds up once when it loads the graph
    down, right = _read(0, sizes) * (width * n), _read(1, sizes) * n
    (oh, kh), (ow, kw) = down.shape, right.shape
    index = down.reshape(oh, 1, 1, kh, 1) + right.reshape(1, ow, 1, 1, kw) + torch.arange(n).reshape(1, 1, n, 1, 1)
    patches = torch.index_select(pixels, 0, index.reshape(-1)).reshape(oh * ow * n, kh * kw * sizes.c_in)
    product = torch.mm(grad.permute(1, 2, 3, 0).reshape(sizes.c_out, -1), patches)
    return product.reshape(sizes.c_out, kh, kw, sizes.c_in).permute(0, 3, 1, 2)


def _read(axis: int, sizes: Convolution) -> Tensor:
    """`(out, taps)`: which place of the padded input an output's tap reads, along one axis."""
    out, taps = torch.arange(sizes.out[axis]), torch.arange(sizes.kernel[axis])
    return out.reshape(-1, 1) * sizes.stride[axis] + taps * sizes.dilation[axis]
