"""Exported graphs said in operators that onnxruntime runs faster, or that devices take, with the same results bit for
bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def simple_powers(graph: onnx.GraphProto) -> int:
    """`Pow(x, 1)` -> `Identity(x)`, `Pow(x, 2)` -> `Mul(x, x)`: onnxruntime takes 8 ns a value for the first, which is
    in every square's gradient (`ds_cnn_s@pool`, Zen 2: 2.0 -> 1.1 ms a step). Returns how many."""
    constants = {t.name: t for t in graph.initializer}
    count = 0
    for node in graph.node:
        exponent = constants.get(node.input[1]) if node.op_type == "Pow" else None
        if exponent is None or list(exponent.dims) or exponent.data_type != onnx.TensorProto.FLOAT:
            continue
        value = float(numpy_helper.to_array(exponent))
        if value not in (1.0, 2.0):
            continue
        base = node.input[0]
        node.op_type = "Identity" if value == 1.0 else "Mul"
        del node.input[:]
        node.input.extend([base] if value == 1.0 else [base, base])
        count += 1
    return count


def parts_by_slices(graph: onnx.GraphProto) -> int:
    """`SequenceAt(SplitToSequence(x), i)` -> a Slice, or a Gather where the axis goes: what `split` and `chunk` become
    where the batch may vary, and devices refuse sequences. Returns how many; a part whose place is not known when
    exporting is left."""
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    splits = {n.output[0]: n for n in graph.node if n.op_type == "SplitToSequence"}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        split = splits.get(node.input[0]) if node.op_type == "SequenceAt" else None
        index = constants.get(node.input[1]) if split else None
        made = _part(split, int(index), node.output[0], constants) if split and index is not None else None
        if made is not None:
            values, node = made
            graph.initializer.extend(values)
            count += 1
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _part(
    split: onnx.NodeProto, index: int, name: str, constants: Mapping[str, np.ndarray[Any, Any]]
) -> tuple[list[onnx.TensorProto], onnx.NodeProto] | None:
    """Part `index` of a split as an operator with the output `name`, and its constants; None where they are unknown."""
    attributes = {a.name: helper.get_attribute_value(a) for a in split.attribute}
    x, given, axis = split.input[0], "".join(split.input[1:]), attributes.get("axis", 0)
    sizes = constants.get(given)
    if given and sizes is None:
        return None
    if sizes is None and not attributes.get("keepdims", 1):
        place = numpy_helper.from_array(np.array(index), f"{name}.index")
        return [place], helper.make_node("Gather", [x, place.name], [name], axis=axis)
    if sizes is not None and sizes.ndim:
        ends = np.cumsum(sizes)
        start, end = int(ends[index] - sizes[index]), int(ends[index])
    elif index >= 0:
        each = 1 if sizes is None else int(sizes)
        start, end = index * each, (index + 1) * each  # a Slice ends where its input does
    else:
        return None
    where = (("start", start), ("end", end), ("axis", axis))
    values = [numpy_helper.from_array(np.array([value]), f"{name}.{what}") for what, value in where]
    return values, helper.make_node("Slice", [x, *(v.name for v in values)], [name])


def expand_late(model: onnx.ModelProto) -> int:
    """An Expand moves behind arithmetic with a scalar, and is not read by arithmetic with a tensor of its size, which
    broadcasts by itself: the gradient of a mean over a map of 8 values is expanded at 4 ns a value. Returns how many
    operators no longer read one."""
    graph = model.graph
    shapes, _ = known_types(onnx.shape_inference.infer_shapes(model).graph)
    scalars = {t.name for t in graph.initializer if not t.dims}
    readers = Counter([*(name for n in graph.node for name in n.input), *(o.name for o in graph.output)])
    expands = {n.output[0]: n for n in graph.node if n.op_type == "Expand"}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        nodes.append(node)
        read = [i for i, name in enumerate(node.input) if name in expands]
        if node.op_type not in _ARITHMETIC or len(read) != 1:
            continue
        wide, other, result = node.input[read[0]], node.input[1 - read[0]], node.output[0]
        narrow, shape = expands[wide].input
        if other in scalars and readers[wide] == 1:
            node.input[read[0]], node.output[0] = narrow, f"{result}.narrow"
            expands[result] = helper.make_node("Expand", [node.output[0], shape], [result])
            shapes[result] = shapes.get(wide)
            nodes.append(expands[result])
        elif shapes.get(wide) is not None and shapes.get(wide) == shapes.get(other):
            node.input[read[0]] = narrow
            count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def known_types(graph: onnx.GraphProto) -> tuple[dict[str, tuple[object, ...] | None], dict[str, int]]:
    """Shapes (None where unknown; a text for a dimension that may vary) and element types, by name."""
    shapes: dict[str, tuple[object, ...] | None] = {}
    dtypes: dict[str, int] = {}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
        shapes[value.name] = dims if all(dims) or dims == () else None
    for tensor in graph.initializer:
        shapes[tensor.name], dtypes[tensor.name] = tuple(tensor.dims), tensor.data_type
    return shapes, dtypes
