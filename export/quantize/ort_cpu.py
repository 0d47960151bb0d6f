"""The form that is fast on ONNX Runtime's CPU: uint8 activations, int8 per-channel weights, int32 bias.

Levels go from convolution to convolution and through residual sums; a ReLU is absorbed by the rounding behind it. A
matrix product gives floats at once, since what follows it in a transformer is float anyway.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgessl.device.requantize.arithmetic import affine, quantize_bias
from export.quantize.calibration import Range
from export.quantize.floating import FloatGraph, drop_unused
from export.quantize.layers import Layer, activated, layers, residual_adds
from export.quantize.settings import FLOAT, Settings
from export.quantize.writing import Written, WrittenLayer, dequantize, round_tensor, scale_name, write_weight, zero_name


def rounded_tensors(graph: FloatGraph, settings: Settings) -> list[str]:
    """Names of the activations that this form rounds, in the graph's order."""
    names: dict[str, None] = {}
    for layer in _chosen(graph, settings):
        names[layer.input] = None
        if layer.node.op_type == "Conv":
            names[activated(graph, layer.output)] = None
    for add in residual_adds(graph):
        if all(name in names for name in add.input):
            names[activated(graph, add.output[0])] = None
    return list(names)


def write(graph: FloatGraph, ranges: Mapping[str, Range], settings: Settings) -> Written:
    """`graph` in integers, with the `ranges` of `rounded_tensors`; `graph` stays as it was."""
    chosen = {layer.name for layer in _chosen(graph, settings)}
    tensors = rounded_tensors(graph, settings)
    written = Written(graph.copy(), activations=tensors)
    made = written.graph
    parameters = {name: affine(*ranges[name]) for name in tensors}
    for layer in layers(made):
        if layer.name in chosen:
            written.layers.append(_write_layer(made, layer, settings.bits(layer.name), parameters[layer.input][0]))
    for name, (scale, zero) in parameters.items():
        round_tensor(made, name, scale, zero)
    drop_unused(made)
    return written


def _chosen(graph: FloatGraph, settings: Settings) -> list[Layer]:
    return [layer for layer in layers(graph) if settings.bits(layer.name) != FLOAT]


def _write_layer(graph: FloatGraph, layer: Layer, bits: int, activation: np.float32) -> WrittenLayer:
    scales = write_weight(graph, layer, bits, activation)
    levels = ""
    if layer.bias:
        levels = f"{layer.name}.bias"
        both = (scales * activation).astype(np.float32)
        graph.constants[levels] = quantize_bias(graph.constants[layer.bias], both)
        graph.constants[scale_name(levels)] = both
        graph.constants[zero_name(levels)] = np.zeros(len(both), np.int32)
        node = dequantize(levels, f"{levels}.value", 0)
        graph.nodes.insert(graph.nodes.index(layer.node), node)
        layer.node.input[2] = node.output[0]
    name, weight = layer.name, f"{layer.name}.weight"
    return WrittenLayer(name, layer.input, layer.weight, layer.bias, layer.axis, bits, weight, levels)
