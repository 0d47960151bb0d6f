"""Weights in four bits, activations in float: for the smallest memories.

Weights of a channel are taken in blocks of 32, each with a float16 scale; channels with fewer weights (depthwise
kernels, first layers) are few and sensitive, and take a byte each. Two forms:

    pack_weights     two weights to a byte, unpacked by standard operators of opset 20, so it may be in a bundle;
                     onnxruntime unpacks once, when it loads the graph: an eighth of the file, float speed and memory
    blocked_weights  matrices as int4 tensors with DequantizeLinear in blocks (opset 21), of which onnxruntime makes
                     MatMulNBits, computing on the packed weights; convolutions, without such a kernel, stay as above
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgessl.device.requantize.arithmetic import quantize_weight, weight_limit, weight_scales
from export.quantize.calibration import Array
from export.quantize.floating import FloatGraph, drop_unused
from export.quantize.layers import Layer, layers
from export.trace import IR_VERSION

INT4 = "int4"
BLOCK = 32
LIMIT = 7
OFFSET = 8  # of a level in its four bits
SHRINKS = np.linspace(1, 0.7, 13)  # of a block's largest weight: the scale with the least squared error is taken


def block_scales(blocks: Array) -> Array:
    """Scales (...,) float16 of blocks (..., B), the levels within +-7, with the least squared error."""
    most = np.maximum(np.abs(blocks).max(-1), 1e-6).astype(np.float32)
    best, least = np.zeros(most.shape, np.float16), np.full(most.shape, np.inf)
    for shrink in SHRINKS:
        scales = (most * shrink / LIMIT).astype(np.float16)
        error = np.square(rounded(blocks, scales) - blocks).sum(-1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def levels(blocks: Array, scales: Array) -> Array:
    """Levels int8 in [-7, 7] of blocks (..., B) with scales (...,)."""
    wide = np.maximum(scales.astype(np.float32), 1e-12)[..., None]
    return np.rint(blocks / wide).clip(-LIMIT, LIMIT).astype(np.int8)


def rounded(blocks: Array, scales: Array) -> Array:
    """The values that the levels of `blocks` stand for, float32."""
    return levels(blocks, scales).astype(np.float32) * scales.astype(np.float32)[..., None]


def pack_weights(graph: FloatGraph) -> FloatGraph:
    """A copy whose weights are stored two to a byte; see the module."""
    made = graph.copy()
    for layer in layers(made):
        _pack(made, layer)
    drop_unused(made)
    return made


def _pack(graph: FloatGraph, layer: Layer) -> None:
    weight, name = graph.constants[layer.weight], f"{layer.name}.int4"
    rows = weight if layer.axis == 0 else weight.T
    channels, width = len(rows), rows[0].size
    if width < BLOCK:
        _store_bytes(graph, layer)
        return
    padded = -(-width // BLOCK) * BLOCK
    flat = np.zeros((channels, padded), np.float32)
    flat[:, :width] = rows.reshape(channels, width)
    blocks = flat.reshape(channels, -1, BLOCK)
    scales = block_scales(blocks)
    nibbles = (levels(blocks, scales) + OFFSET).astype(np.uint8).reshape(-1, 2)
    shape = list(rows.shape)
    constants = {
        "bytes": nibbles[:, 0] | nibbles[:, 1] << 4,
        "scales": scales[..., None],
        "mask": np.array(15, np.uint8),
        "four": np.array(4, np.uint8),
        "offset": np.array(OFFSET, np.float32),
        "last": np.array([1], np.int64),
        "blocks": np.array(blocks.shape, np.int64),
        "rows": np.array([channels, padded], np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([width], np.int64),
        "shape": np.array(shape, np.int64),
    }
    graph.constants |= {f"{name}.{key}": value for key, value in constants.items()}

    def node(operator: str, inputs: tuple[str, ...], output: str, **attributes: object) -> onnx.NodeProto:
        known = [f"{name}.{each}" for each in inputs]
        return helper.make_node(operator, known, [f"{name}.{output}"], **attributes)  # type: ignore[arg-type]

    nodes = [
        node("BitwiseAnd", ("bytes", "mask"), "low"),
        node("BitShift", ("bytes", "four"), "high", direction="RIGHT"),
        node("Unsqueeze", ("low", "last"), "low2"),
        node("Unsqueeze", ("high", "last"), "high2"),
        node("Concat", ("low2", "high2"), "pairs", axis=1),
        node("Cast", ("pairs",), "floats", to=TensorProto.FLOAT),
        node("Sub", ("floats", "offset"), "centered"),
        node("Reshape", ("centered", "blocks"), "levels"),
        node("Cast", ("scales",), "wide", to=TensorProto.FLOAT),
        node("Mul", ("levels", "wide"), "values"),
        node("Reshape", ("values", "rows"), "padded"),
        node("Slice", ("padded", "start", "end", "last"), "flat"),
        node("Reshape", ("flat", "shape"), "weight"),
    ]
    if layer.axis == 1:
        nodes.append(node("Transpose", ("weight",), "turned", perm=[1, 0]))
    place = graph.nodes.index(layer.node)
    graph.nodes[place:place] = nodes
    layer.node.input[1] = nodes[-1].output[0]


def _store_bytes(graph: FloatGraph, layer: Layer) -> None:
    """Int8 levels with a scale per channel, in operators that onnxruntime computes once."""
    weight, name = graph.constants[layer.weight], f"{layer.name}.int8"
    scales = weight_scales(weight, layer.axis, weight_limit(8))
    shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
    graph.constants[name] = quantize_weight(weight, scales, layer.axis, weight_limit(8))
    graph.constants[f"{name}.scale"] = scales.reshape(shape)
    nodes = [
        helper.make_node("Cast", [name], [f"{name}.floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.floats", f"{name}.scale"], [f"{name}.value"]),
    ]
    place = graph.nodes.index(layer.node)
    graph.nodes[place:place] = nodes
    layer.node.input[1] = nodes[-1].output[0]


def blocked_weights(graph: FloatGraph) -> onnx.ModelProto:
    """A model of opset 21 whose MatMul weights are int4 tensors in blocks along their inputs; see the module.

    A matrix whose inputs are no multiple of `BLOCK`, and every other layer, is packed as by `pack_weights`.
    """
    made, tensors = graph.copy(), []
    for layer in layers(made):
        weight = made.constants[layer.weight]
        if layer.node.op_type != "MatMul" or len(weight) % BLOCK:
            _pack(made, layer)
            continue
        name = f"{layer.name}.int4"
        blocks = weight.T.reshape(weight.shape[1], -1, BLOCK)
        scales = block_scales(blocks)
        stored = levels(blocks, scales).reshape(weight.shape[1], -1).T
        tensors.append(helper.make_tensor(name, TensorProto.INT4, stored.shape, stored.ravel().tolist()))
        made.constants[f"{name}.scale"] = np.ascontiguousarray(scales.T).astype(np.float32)
        node = helper.make_node(
            "DequantizeLinear", [name, f"{name}.scale"], [f"{name}.value"], axis=0, block_size=BLOCK
        )
        made.nodes.insert(made.nodes.index(layer.node), node)
        layer.node.input[1] = node.output[0]
    drop_unused(made)
    model = made.model(opset=21)
    model.ir_version = IR_VERSION
    model.graph.initializer.extend(tensors)
    return model
