"""Forms for GPUs: every part of a convolution as one convolution, which cuDNN and TensorRT have kernels for.

The forms beside this one are made for a processor's caches and MLAS's kernels: their many copies and thin GEMMs left
ResNet-18's step at 211 ms on an H200, where torch took 19. A `portable` step takes these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.lowerings.geometry import Convolution

aten = torch.ops.aten


def weight_gradient(grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
    """`(Co, Ci / groups, kh, kw)`, any convolution: `x` convolved with `grad`, samples and channels exchanged.

    A tap's gradient sums over samples and output pixels what the tap read there. So the input's channels are samples,
    its samples are channels, `grad` is the kernel, and stride and dilation are in each other's place.
    """
    n, groups, (kh, kw) = sizes.n, sizes.groups, sizes.kernel
    if groups == 1:
        data, kernel = x.transpose(0, 1), grad.transpose(0, 1)
    else:
        data = x.reshape(n, groups, -1, *sizes.size).permute(2, 1, 0, 3, 4).reshape(-1, groups * n, *sizes.size)
        kernel = grad.reshape(n, groups, -1, *sizes.out).permute(1, 2, 0, 3, 4).reshape(-1, n, *sizes.out)
    where = list(sizes.dilation), list(sizes.padding), list(sizes.stride)
    found = aten.convolution(data, kernel, None, *where, False, [0, 0], groups)
    return found[:, :, :kh, :kw].transpose(0, 1)  # a stride may leave rows and columns that no tap reads
