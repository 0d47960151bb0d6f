"""Lowerings: aten operators of the traced step rewritten to what stock ONNX Runtime runs fast.

Each is a decomposition in plain aten operators, equal to torch's autograd (tests/export), with its measured effect in
its module and in `docs/step.md`. A family per file:

    convolution       which form each convolution and gradient takes
    depthwise         depthwise convolutions as batched GEMMs
    weight_gradient   of dense convolutions, as GEMMs
    input_gradient    of dense convolutions
    gathered          weight gradients for GPUs
    norms             group norm and layer norm, two flavours
    activations       GELU and its gradient
    splitting         theta and chunks as slices, padded vectors as concatenations
"""

from export.lowerings.geometry import Choices
from export.lowerings.table import FLAVOURS, Lowerings

__all__ = ["FLAVOURS", "Choices", "Lowerings"]
