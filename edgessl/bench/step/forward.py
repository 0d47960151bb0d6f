"""Views, networks and loss as an ONNX graph with parameters as initializers: what onnxruntime-training starts from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call

from edgessl.bench.step.torch_backend import criterion
from edgessl.step import TrainStep
from export.lowerings import Lowerings
from export.opset import lower_opset
from export.trace import trace_function

aten = torch.ops.aten


def write_forward(folder: Path, step: TrainStep, batch_size: int) -> None:
    """Write forward.onnx into `folder`, which holds the case of `step`: `batch` and `noise` to `loss`.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    case = json.loads((folder / "case.json").read_text())
    module = _Loss(step, criterion(case["objective"], case["hyper"]))
    theta = step.initial_state()["theta"]
    start = {e.name: theta[e.offset : e.offset + e.size].reshape(e.shape) for e in step.layout.entries}
    inputs = [*start, "batch", "noise"]

    def loss(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, tensors, strict=True))
        named = {f"parts.{name}": given[name] for name in start}
        return (functional_call(module, named, (given["batch"], given["noise"])),)

    batch = torch.rand(batch_size, *step.views.pipeline.shape), torch.rand(step.noise_shape(batch_size))
    model = lower_opset(trace_function(loss, (*start.values(), *batch), inputs, ["loss"], _WholeOperators("portable")))
    fed = [value for value in model.graph.input if value.name not in start]
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.graph.initializer.extend(numpy_helper.from_array(value.numpy(), name) for name, value in start.items())
    for i, node in enumerate(model.graph.node):  # its rewrites name what they add after the node
        node.name = f"{node.op_type}_{i}"
        if node.op_type == "LayerNormalization":  # its gradient reads mean and deviation
            node.output.extend(f"{node.name}_{part}" for part in ("mean", "deviation")[len(node.output) - 1 :])
    (folder / "forward.onnx").write_bytes(model.SerializeToString())


class _Loss(nn.Module):
    def __init__(self, step: TrainStep, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.parts, self.views, self.between = step.parts, step.views, between

    def forward(self, batch: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            a, b = self.views(batch, noise)
        projector = self.parts.projector
        assert isinstance(projector, nn.Module)
        z_a, z_b = projector(self.parts.encoder(torch.cat([a, b]))).chunk(2)
        return self.between(z_a, z_b)


class _WholeOperators(Lowerings):
    """Operators that onnxruntime-training differentiates as a whole stay whole; group norm goes to arithmetic, for
    there is no gradient of InstanceNormalization and that of BatchNormalization takes batch statistics."""

    def table(self) -> dict[Any, Callable[..., Any]]:
        table = super().table()
        for operator in (aten.convolution.default, aten.native_layer_norm.default):
            del table[operator]
        return table | {aten.native_group_norm.default: _group_norm}


def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.reshape(n, groups, -1)
    mean = rows.mean(-1, keepdim=True)
    centred = rows - mean
    rstd = 1.0 / ((centred * centred).mean(-1, keepdim=True) + eps).sqrt()
    per_channel = (1, c, *[1] * (x.ndim - 2))
    out = (centred * rstd).reshape(x.shape) * weight.reshape(per_channel) + bias.reshape(per_channel)
    return out, mean.reshape(n, groups), rstd.reshape(n, groups)
