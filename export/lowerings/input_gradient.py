"""Input gradients of dense convolutions: ConvTranspose, or a convolution where there is one.

ConvTranspose is a match for Conv on one thread and does not gain from a second (16 channels of 32x32, 3x3, 32 samples:
2.9 / 3.1 ms at 1 / 2 threads of a Zen 2 core; flipped 3.4 / 1.8).
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.lowerings.geometry import Convolution

aten = torch.ops.aten


def transposed(grad: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """Any convolution: its transpose."""
    extra = [
        sizes.size[i]
        - ((sizes.out[i] - 1) * sizes.stride[i] - 2 * sizes.padding[i] + sizes.dilation[i] * (sizes.kernel[i] - 1) + 1)
        for i in range(2)
    ]
    where = list(sizes.stride), list(sizes.padding), list(sizes.dilation)
    return aten.convolution(grad, weight, None, *where, True, extra, sizes.groups)


def flipped(grad: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """Stride 1, one group: a convolution with the kernel turned by 180 degrees and the channels' roles exchanged.

    1x1 maps of 128 channels on 4x4: 0.79/0.88 -> 0.45/0.31 ms at 1 / 2 threads.
    """
    turned = weight.transpose(0, 1)
    axes = [2 + i for i, taps in enumerate(sizes.kernel) if taps > 1]
    turned = turned.flip(axes) if axes else turned
    padding = [d * (k - 1) - p for d, k, p in zip(sizes.dilation, sizes.kernel, sizes.padding, strict=True)]
    return aten.convolution(grad, turned, None, [1, 1], padding, list(sizes.dilation), False, [0, 0], 1)


def flips(sizes: Convolution) -> bool:
    """Whether `flipped` can do it."""
    reach = [d * (k - 1) >= p for d, k, p in zip(sizes.dilation, sizes.kernel, sizes.padding, strict=True)]
    return sizes.stride == (1, 1) and sizes.groups == 1 and all(reach)
