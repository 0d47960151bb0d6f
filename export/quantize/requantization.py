"""What a device needs to make its int8 encoder anew from learned theta: a plan, and a graph that measures ranges."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgessl.device.requantize.plan import LayerPlan, Norm, Plan, Slice
from edgessl.errors import ExportError
from export.quantize.floating import FloatGraph
from export.quantize.writing import Written, WrittenLayer


def requantization_plan(floating: FloatGraph, written: Written, theta_size: int) -> Plan:
    """Where in theta every constant of `written` comes from; `floating` is the graph from `with_theta` it was made of.

    Raises:
        ExportError: a constant is not a slice of theta, as after cross-layer equalisation or bias correction.
    """
    layers = tuple(_layer(floating, layer, written.activations) for layer in written.layers)
    used = {name for node in written.graph.nodes for name in node.input}
    if computed := sorted(used & floating.derived):
        raise ExportError(
            f"{floating.named(computed[0])}: reads {computed[0]!r}, which is computed from theta, not taken from it; a "
            "device cannot follow it"
        )
    floats = tuple((name, _slice(floating, name)) for name in floating.origins if name in used)
    return Plan(theta_size, layers, floats, tuple(written.activations))


def _layer(graph: FloatGraph, layer: WrittenLayer, activations: list[str]) -> LayerPlan:
    if layer.weight not in graph.origins:
        computed = layer.weight in graph.derived
        what = "computed from theta" if computed else "no slice of theta: leave out equalisation and bias correction"
        raise ExportError(f"{graph.named(layer.name)}: a device cannot requantize its weights, which are {what}")
    origin, bias, norm = graph.origins[layer.weight], None, None
    if origin.norm is not None:
        gain, shift, mean, variance = (_slice(graph, name) for name in origin.norm)
        norm = Norm(gain, shift, mean, variance, origin.eps)
    elif layer.bias:
        if layer.bias not in graph.origins:
            raise ExportError(f"{graph.named(layer.name)}: its bias is no slice of theta; leave out bias correction")
        bias = _slice(graph, layer.bias)
    weight = _slice(graph, layer.weight)
    place = activations.index(layer.input)
    return LayerPlan(weight, layer.axis, layer.bits, place, layer.levels, bias, norm, layer.bias_levels or None)


def _slice(graph: FloatGraph, name: str) -> Slice:
    index = graph.origins[name].index
    first = int(index.min())
    straight = first + np.arange(index.size)
    if np.array_equal(index, straight.reshape(index.shape)):
        return Slice(first, index.shape)
    if index.ndim == 2 and np.array_equal(index, straight.reshape(index.shape[::-1]).T):
        return Slice(first, index.shape, transposed=True)
    raise ExportError(f"{graph.named(name)}: {name!r} is scattered over theta; a device cannot requantize it")


def ranges_graph(encoder: onnx.ModelProto, activations: list[str]) -> onnx.ModelProto:
    """The encoder graph `(theta, x) -> embedding` that also gives `low` and `high` (T,), the smallest and largest value
    of each of `activations`.

    Raises:
        ExportError: an activation is not in the graph.
    """
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    known = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "ranges_one"))
    for side, operator in (("low", "ReduceMin"), ("high", "ReduceMax")):
        pieces = []
        for i, name in enumerate(activations):
            if name not in known:
                raise ExportError(f"activation {name!r} is not in the encoder's graph, so its range cannot be measured")
            least, piece = f"ranges_{side}_{i}", f"ranges_{side}_{i}_row"
            graph.node.append(helper.make_node(operator, [name], [least], keepdims=0))
            graph.node.append(helper.make_node("Reshape", [least, "ranges_one"], [piece]))
            pieces.append(piece)
        graph.node.append(helper.make_node("Concat", pieces, [side], axis=0))
        graph.output.append(helper.make_tensor_value_info(side, TensorProto.FLOAT, [len(activations)]))
    return model
