"""Depthwise convolutions as batched GEMMs over channels.

onnxruntime runs one tiny GEMM per sample and channel, 1 GFLOP/s on a 4x4 map. Channels first, `(C, N, H*W)`, a
depthwise convolution is one GEMM per channel with the Toeplitz matrix of its kernel: `dense` over whole maps, `rows`
over bands of `kh` rows where maps are large and the dense matrix is mostly zeros. 3x3, 64 samples,
milliseconds at 1 / 2 threads (Zen 2), operator -> GEMM (weights: padded rows -> GEMM), 2026-11-27:

    channels, map            forward               input gradient        weight gradient
    128, 4x4                 2.6/1.5 -> 0.4/0.3    3.3/3.3 -> 0.5/0.5    2.3/1.8 -> 0.6/0.4    dense
     64, 7x7                 2.0/1.1 -> 0.7/0.5    2.4/2.4 -> 0.7/0.5    2.3/1.8 -> 0.9/0.6    dense
     64, 7x7, stride 2       1.3/0.7 -> 0.3/0.3    1.6/1.6 -> 0.4/0.3    1.8/1.5 -> 0.5/0.4    dense
     32, 14x14, stride 2     1.1/0.6 =  1.1/0.7    1.6/1.5 -> 1.1/1.1    2.2/2.3 -> 1.4/1.3    dense
     16, 14x14               1.1/0.6 =  1.1/0.9    (operator)            1.8/1.4 -> 1.4/1.1    rows
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.lowerings.geometry import Convolution

aten = torch.ops.aten
DENSE_UP_TO = 1 << 14  # entries of one channel's Toeplitz matrix


def dense_pays(sizes: Convolution, most: int = DENSE_UP_TO) -> bool:
    """Whether the Toeplitz matrix of whole maps is small enough to beat everything else."""
    return _entries(sizes) <= most


def dense_forward(x: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """The convolution of `x` `(N, C, H, W)`: `(N, C, oh, ow)`."""
    return _by_sample(torch.bmm(_by_channel(x), _toeplitz(weight, sizes)), sizes, sizes.out)


def dense_input_gradient(grad: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """Input gradient `(N, C, H, W)` of `grad` `(N, C, oh, ow)`."""
    return _by_sample(torch.bmm(_by_channel(grad), _toeplitz(weight, sizes).transpose(1, 2)), sizes, sizes.size)


def dense_weight_gradient(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """Weight gradient `(C, 1, kh, kw)`: all pairs of input and output pixel, then the sum of those a tap connects."""
    pairs = torch.bmm(_by_channel(x).transpose(1, 2), _by_channel(grad))
    taps = torch.mm(pairs.reshape(sizes.c_in, -1), _connections(sizes, x.dtype).t())
    return taps.reshape(sizes.c_in, 1, *sizes.kernel)


def rows_forward(x: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """As `dense_forward`, with a Toeplitz matrix per band of kernel rows."""
    (kh, kw), (_, width) = sizes.kernel, sizes.size
    taps = torch.mm(weight.reshape(-1, kw), _along(1, sizes, x.dtype).reshape(kw, -1))
    out = torch.bmm(_bands(x, sizes), taps.reshape(sizes.c_in, kh * width, sizes.out[1]))
    return _by_sample(out, sizes, sizes.out)


def rows_weight_gradient(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """As `dense_weight_gradient`, with pairs of columns within bands of kernel rows."""
    kh, kw = sizes.kernel
    g = grad.transpose(0, 1).reshape(sizes.c_in, -1, sizes.out[1])
    pairs = torch.bmm(_bands(x, sizes).transpose(1, 2), g)
    taps = torch.mm(pairs.reshape(sizes.c_in * kh, -1), _along(1, sizes, x.dtype).reshape(kw, -1).t())
    return taps.reshape(sizes.c_in, 1, kh, kw)


def _by_channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], x.shape[0], -1)


def _by_sample(x: Tensor, sizes: Convolution, map_size: tuple[int, ...]) -> Tensor:
    return x.reshape(sizes.c_in, sizes.n, *map_size).transpose(0, 1)


def _bands(x: Tensor, sizes: Convolution) -> Tensor:
    """`(C, N * oh, kh * W)`: for each output row the input rows under the kernel, side by side."""
    (oh, _), (kh, _) = sizes.out, sizes.kernel
    top, stride, dilation = sizes.padding[0], sizes.stride[0], sizes.dilation[0]
    padded = aten.constant_pad_nd(x.transpose(0, 1), [0, 0, top, top], 0.0)
    span = (oh - 1) * stride + 1
    rows = [padded[:, :, i * dilation : i * dilation + span : stride] for i in range(kh)]
    return torch.cat(rows, 3).reshape(sizes.c_in, sizes.n * oh, -1)


def _toeplitz(weight: Tensor, sizes: Convolution) -> Tensor:
    """`(C, H * W, oh * ow)`: column `o` holds the weights with which output pixel `o` sums the input's pixels."""
    spread = torch.mm(weight.reshape(sizes.c_in, -1), _connections(sizes, weight.dtype))
    return spread.reshape(sizes.c_in, sizes.size[0] * sizes.size[1], -1)


def _connections(sizes: Convolution, dtype: torch.dtype) -> Tensor:
    """0/1 `(kh * kw, H * W * oh * ow)`: whether a tap connects an input with an output pixel.

    The product of a small matrix per axis, multiplied in the graph: onnxruntime folds it when it loads the graph,
    which stays small.
    """
    (kh, kw), (h, w), (oh, ow) = sizes.kernel, sizes.size, sizes.out
    vertical = _along(0, sizes, dtype).reshape(kh, 1, h, 1, oh, 1)
    horizontal = _along(1, sizes, dtype).reshape(1, kw, 1, w, 1, ow)
    return (vertical * horizontal).reshape(kh * kw, h * w * oh * ow)


def _along(axis: int, sizes: Convolution, dtype: torch.dtype) -> Tensor:
    """0/1 `(taps, input, output)` along one axis; what would read padding is 0."""
    taps, length, out = sizes.kernel[axis], sizes.size[axis], sizes.out[axis]
    tap, place, result = torch.arange(taps), torch.arange(length), torch.arange(out)
    read = result * sizes.stride[axis] + tap.reshape(-1, 1, 1) * sizes.dilation[axis] - sizes.padding[axis]
    return (place.reshape(-1, 1) == read).to(dtype)


def _entries(sizes: Convolution) -> int:
    return sizes.size[0] * sizes.size[1] * sizes.out[0] * sizes.out[1]
