"""What both writers share: levels of weights, and the pair of nodes that rounds an activation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from edgessl.device.requantize.arithmetic import quantize_weight, scales_for_bias, weight_limit, weight_scales
from export.quantize.calibration import Array
from export.quantize.floating import FloatGraph
from export.quantize.layers import Layer

RAW = ".float"  # behind the name of what a node gives before it is rounded


@dataclass(frozen=True)
class WrittenLayer:
    """A layer in its integer form: the float constants it was made from, the constants it became.

    `bias` and `bias_levels` are "" where there is none or it stayed float; names of scales follow the levels'.
    """

    name: str
    input: str
    weight: str
    bias: str
    axis: int
    bits: int
    levels: str
    bias_levels: str


@dataclass
class Written:
    """An integer graph and what of it was quantized; `activations`: rounded tensors in order."""

    graph: FloatGraph
    layers: list[WrittenLayer] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)


def scale_name(name: str) -> str:
    """The constant that holds the scale of levels or of a rounded tensor."""
    return f"{name}.scale"


def zero_name(name: str) -> str:
    """The constant that holds the zero point of levels or of a rounded tensor."""
    return f"{name}.zero"


def write_weight(graph: FloatGraph, layer: Layer, bits: int, activation: np.float32 | None) -> Array:
    """The layer reads its weight from int8 levels; returns their scales (C,).

    `activation` is the scale of the input where the bias will be int32, else None.
    """
    weight, levels = graph.constants[layer.weight], f"{layer.name}.weight"
    scales = weight_scales(weight, layer.axis, weight_limit(bits))
    if activation is not None and layer.bias:
        scales = scales_for_bias(scales, graph.constants[layer.bias], activation)
    graph.constants[levels] = quantize_weight(weight, scales, layer.axis, weight_limit(bits))
    graph.constants[scale_name(levels)] = scales
    graph.constants[zero_name(levels)] = np.zeros(len(scales), np.int8)
    node = dequantize(levels, f"{levels}.value", layer.axis)
    graph.nodes.insert(graph.nodes.index(layer.node), node)
    layer.node.input[1] = node.output[0]
    return scales


def dequantize(levels: str, output: str, axis: int | None = None, source: str = "") -> onnx.NodeProto:
    """DequantizeLinear of the levels `source` (by default `levels`) with the scale and zero point of `levels`."""
    inputs = [source or levels, scale_name(levels), zero_name(levels)]
    node = helper.make_node("DequantizeLinear", inputs, [output])
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def quantize(tensor: str, output: str, key: str) -> onnx.NodeProto:
    """QuantizeLinear of `tensor` with the scale and zero point of `key`."""
    return helper.make_node("QuantizeLinear", [tensor, scale_name(key), zero_name(key)], [output])


def round_tensor(graph: FloatGraph, tensor: str, scale: np.float32, zero: np.generic) -> None:
    """Everyone who reads `tensor` reads its rounded value; levels have the dtype of `zero`."""
    graph.constants[scale_name(tensor)] = np.asarray(scale)
    graph.constants[zero_name(tensor)] = np.asarray(zero)
    producer = graph.producer(tensor)
    if producer is None:  # the graph's input keeps its name
        raw, rounded, place = tensor, f"{tensor}.rounded", 0
        for node in graph.consumers(tensor):
            node.input[:] = [rounded if name == tensor else name for name in node.input]
    else:
        raw, rounded = f"{tensor}{RAW}", tensor
        place = graph.nodes.index(producer) + 1
        producer.output[:] = [raw if name == tensor else name for name in producer.output]
    levels = f"{tensor}.levels"
    pair = [quantize(raw, levels, tensor), dequantize(tensor, rounded, source=levels)]
    graph.nodes[place:place] = pair
