"""Convolutions and their gradients: each part takes the form that is fastest for its sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgessl.errors import ExportError
from export.lowerings import depthwise, gathered, input_gradient, weight_gradient
from export.lowerings.geometry import Choices, Convolution

aten = torch.ops.aten
Form = Callable[[Tensor, Tensor, Convolution], Tensor]
FEW_CHANNELS = 8  # below this the shifted copies of all taps are cheap, and few GEMMs better than many
_NARROW = 16  # input channels; a GEMM of so few columns is as fast as one of three times as many
_WIDE_MAP = 1 << 7  # pixels; on smaller maps one GEMM over all samples beats one per sample


def operator(x: Tensor, weight: Tensor, sizes: Convolution) -> Tensor:
    """The convolution as onnxruntime's own operator."""
    where = list(sizes.stride), list(sizes.padding), list(sizes.dilation)
    return aten.convolution(x, weight, None, *where, False, [0, 0], sizes.groups)


# family -> form -> function(x or grad, weight or x, sizes)
FORMS: dict[str, dict[str, Form]] = {
    "forward": {
        "operator": operator,
        "dense": depthwise.dense_forward,
        "rows": depthwise.rows_forward,
    },
    "input_gradient": {
        "transposed": input_gradient.transposed,
        "flipped": input_gradient.flipped,
        "dense": depthwise.dense_input_gradient,
    },
    "weight_gradient": {
        "pointwise": weight_gradient.pointwise,
        "separable": weight_gradient.separable,
        "by_column": weight_gradient.by_column,
        "columns": weight_gradient.columns,
        "patches": weight_gradient.patches,
        "dense": depthwise.dense_weight_gradient,
        "rows": depthwise.rows_weight_gradient,
        "gathered": gathered.weight_gradient,
    },
}
_TAKE_GROUPS = ("dense", "rows")  # forms of the weight gradient; the others do one group
_DENSE_ON_GPU = 1 << 16  # entries of one channel's Toeplitz matrix; 64 channels of 14x14 on an H200: rows 0.13, 0.08 ms
Rules = Callable[[str, Convolution], list[str]]


def possible(family: str, sizes: Convolution) -> list[str]:
    """The forms that can do it, the one that usually wins first (measured on Zen 2, see the forms' figures)."""
    dense = ["dense"] if depthwise.dense_pays(sizes) else []
    if family == "forward":
        return [*dense, "operator", "rows"] if sizes.depthwise else ["operator"]
    if family == "input_gradient":
        if sizes.depthwise:
            return [*dense, "transposed"]
        few = sizes.c_in < FEW_CHANNELS
        if not input_gradient.flips(sizes):
            return ["transposed"]
        return ["transposed", "flipped"] if few else ["flipped", "transposed"]
    if sizes.depthwise:
        return [*dense, "rows"]
    if sizes.pointwise:
        return ["pointwise", "columns"]
    general = ["patches", "columns"] if sizes.c_in < FEW_CHANNELS else ["columns", "patches"]
    if not sizes.plain_3x3 or sizes.c_in < FEW_CHANNELS:
        return general
    wide = sizes.size[0] * sizes.size[1] > _WIDE_MAP
    shifting = ["by_column", "separable"] if sizes.c_in <= _NARROW else ["separable", "by_column"]
    return [*shifting, *general] if wide else [*general, *shifting]


def possible_on_gpu(family: str, sizes: Convolution) -> list[str]:
    """As `possible`, for graphs that GPUs run: few operators, and those that cuDNN and TensorRT have kernels for."""
    if family != "weight_gradient":
        return ["operator" if family == "forward" else "transposed"]
    if sizes.depthwise:
        return ["dense" if depthwise.dense_pays(sizes, _DENSE_ON_GPU) else "rows"]
    return ["pointwise" if sizes.pointwise else "gathered"]


class ConvolutionLowering:
    """`aten.convolution` and `aten.convolution_backward` with forms from `choices`, of those that `rules` allow."""

    def __init__(self, choices: Choices, rules: Rules = possible) -> None:
        self.choices, self._rules = choices, rules

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        transposed: bool,
        output_padding: list[int],
        groups: int,
    ) -> Any:
        """`aten.convolution`; NotImplemented leaves the operator as it is."""
        if transposed or x.ndim > 4:
            return NotImplemented
        wide = _Wide(x, weight, stride, padding, dilation, groups)
        form = self._take("forward", wide.sizes)
        if form is operator:
            return NotImplemented
        out = wide.narrow(form(wide.x, wide.weight, wide.sizes))
        return out if bias is None else out + bias.reshape(-1, *[1] * (x.ndim - 2))

    def backward(
        self,
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
        """`aten.convolution_backward`: gradients of input, weight and bias, those that `mask` asks for.

        Raises:
            ExportError: a 3-D convolution.
        """
        if x.ndim > 4:
            raise ExportError(f"of a {x.ndim - 2}-D convolution has no lowering; that of a 1-D or 2-D one has")
        grad_x = grad_weight = None
        if transposed:  # then the input gradient is a convolution of grad, and grad and x change roles
            if mask[0]:
                where = stride, padding, dilation
                grad_x = aten.convolution(grad, weight, None, *where, False, [0] * len(stride), groups)
            wide = _Wide(grad, weight, stride, padding, dilation, groups)
            if mask[1]:
                grad_weight = self._weight_gradient(wide.widen(x), wide.x, wide.sizes).reshape(weight.shape)
        else:
            wide = _Wide(x, weight, stride, padding, dilation, groups)
            g = wide.widen(grad)
            if mask[0]:
                form = self._take("input_gradient", wide.sizes)
                grad_x = wide.narrow(form(g, wide.weight, wide.sizes))
            if mask[1]:
                grad_weight = self._weight_gradient(g, wide.x, wide.sizes).reshape(weight.shape)
        return grad_x, grad_weight, grad.sum([0, *range(2, grad.ndim)]) if mask[2] else None

    def _weight_gradient(self, grad: Tensor, x: Tensor, sizes: Convolution) -> Tensor:
        """`(Co, Ci / groups, kh, kw)`."""
        if sizes.groups > 1 and self._rules("weight_gradient", sizes)[0] not in _TAKE_GROUPS:
            pairs = zip(grad.chunk(sizes.groups, 1), x.chunk(sizes.groups, 1), strict=True)
            part = Convolution(
                sizes.n, sizes.c_in // sizes.groups, sizes.c_out // sizes.groups, sizes.size, sizes.out,
                sizes.kernel, sizes.stride, sizes.padding, sizes.dilation, 1,
            )  # fmt: skip
            return torch.cat([self._weight_gradient(g, xs, part) for g, xs in pairs])
        return self._take("weight_gradient", sizes)(grad, x, sizes)

    def _take(self, family: str, sizes: Convolution) -> Form:
        forms = self._rules(family, sizes)
        return FORMS[family][self.choices.take(family, sizes, forms, forms[0])]


class _Wide:
    """The operands of a 1-D or 2-D convolution as those of a 2-D one."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        self.flat = x.ndim == 3
        if self.flat:
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
        self.x, self.weight = self.widen(x), self.widen(weight)
        self.sizes = Convolution.of(self.x, self.weight, stride, padding, dilation, groups)

    def widen(self, tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(2) if self.flat else tensor

    def narrow(self, tensor: Tensor) -> Tensor:
        return tensor.squeeze(2) if self.flat else tensor
