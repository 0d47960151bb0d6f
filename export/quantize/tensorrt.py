"""The form that TensorRT takes: int8 on both sides, zero point 0, bias in float32; rounding right before what reads it.

Rounded are the inputs of Conv, Gemm and MatMul, and the shortcut into a residual sum; the other side of the sum is a
convolution's output, which TensorRT fuses with it. A matrix product's weights are stored (outputs, inputs), quantized
along axis 0 and transposed, the form its parser knows from torch's linear layers. ONNX Runtime runs this too, slower
than floats.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from edgessl.device.requantize.arithmetic import symmetric
from export.quantize.calibration import Range
from export.quantize.floating import FloatGraph, drop_unused
from export.quantize.layers import Layer, layers, residual_adds
from export.quantize.settings import FLOAT, Settings
from export.quantize.writing import Written, WrittenLayer, dequantize, quantize, scale_name, write_weight, zero_name


def rounded_tensors(graph: FloatGraph, settings: Settings) -> list[str]:
    """Names of the activations that this form rounds, in the graph's order."""
    return list(dict.fromkeys(node.input[i] for node, i in _readers(graph, settings)))


def write(graph: FloatGraph, ranges: Mapping[str, Range], settings: Settings) -> Written:
    """`graph` in TensorRT's form, with the `ranges` of `rounded_tensors`; `graph` stays as it was."""
    made = graph.copy()
    written = Written(made, activations=rounded_tensors(graph, settings))
    for node, place in _readers(made, settings):
        _round_input(made, node, place, symmetric(*ranges[node.input[place]]))
    for layer in layers(made):
        bits = settings.bits(layer.name)
        if bits != FLOAT:
            source = layer.weight
            stored = _rows_first(made, layer)
            write_weight(made, stored, bits, None)
            if layer.node.op_type == "MatMul":
                _turn_back(made, layer.node)
            weight = f"{layer.name}.weight"
            written.layers.append(WrittenLayer(layer.name, "", source, "", stored.axis, bits, weight, ""))
    drop_unused(made)
    return written


def _readers(graph: FloatGraph, settings: Settings) -> list[tuple[onnx.NodeProto, int]]:
    """Nodes that read something rounded, and the place among their inputs."""
    found = [(layer.node, 0) for layer in layers(graph) if settings.bits(layer.name) != FLOAT]
    for add in residual_adds(graph):
        direct = [(node := graph.producer(name)) is not None and node.op_type == "Conv" for name in add.input]
        found.append((add, 1 if direct[0] else 0))
    return found


def _round_input(graph: FloatGraph, node: onnx.NodeProto, place: int, scale: np.float32) -> None:
    """A pair of its own for each reader."""
    tensor, key = node.input[place], f"{node.output[0]}.input"
    graph.constants[scale_name(key)] = np.asarray(scale)
    graph.constants[zero_name(key)] = np.asarray(np.int8(0))
    levels = f"{key}.levels"
    at = graph.nodes.index(node)
    graph.nodes[at:at] = [quantize(tensor, levels, key), dequantize(key, f"{key}.value", source=levels)]
    node.input[place] = f"{key}.value"


def _rows_first(graph: FloatGraph, layer: Layer) -> Layer:
    """The layer with its output channels along axis 0 of the stored weight; a MatMul then wants it turned back."""
    if layer.axis == 0:
        return layer
    name = f"{layer.name}.rows"
    graph.constants[name] = np.ascontiguousarray(graph.constants[layer.weight].T)
    layer.node.input[1] = name
    if layer.node.op_type == "Gemm":
        kept = [a for a in layer.node.attribute if a.name != "transB"]
        del layer.node.attribute[:]
        layer.node.attribute.extend([*kept, helper.make_attribute("transB", 1)])
    return Layer(layer.node, name, layer.bias, 0)


def _turn_back(graph: FloatGraph, node: onnx.NodeProto) -> None:
    turned = helper.make_node("Transpose", [node.input[1]], [f"{node.output[0]}.turned"], perm=[1, 0])
    graph.nodes.insert(graph.nodes.index(node), turned)
    node.input[1] = turned.output[0]
