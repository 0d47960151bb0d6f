"""What is known of a graph before it runs: types, shapes, constants, and who reads what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def type_name(kind: int) -> str:
    """An element type as ONNX calls it."""
    return str(TensorProto.DataType.Name(kind)).lower()


class Facts:
    """Of a graph's tensors, by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        try:  # without values: propagating those through a ResNet-18's step filled 20 GB
            graph = onnx.shape_inference.infer_shapes(model).graph
        except onnx.shape_inference.InferenceError:  # an operator that onnx does not know; the check will name it
            graph = model.graph
        self.values: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.constants = set(self.values)
        self.types = {t.name: t.data_type for t in graph.initializer}
        self.shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
        for value in [*graph.input, *graph.output, *graph.value_info]:
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type  # UNDEFINED for what is no tensor: a sequence, an optional
            if tensor.HasField("shape"):
                dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
                self.shapes[value.name] = tuple(dims)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            self._learn_constant(node)
        self.nodes = list(graph.node)

    def _learn_constant(self, node: onnx.NodeProto) -> None:
        """A Constant's value, or that a node computes from constants alone."""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self.values[node.output[0]] = node.attribute[0].t
            self.types.setdefault(node.output[0], node.attribute[0].t.data_type)
        if all(name in self.constants for name in node.input if name):
            self.constants.update(node.output)

    def array(self, name: str) -> np.ndarray | None:
        """A constant's value; None when it is not stored in the graph."""
        return numpy_helper.to_array(self.values[name]) if name in self.values else None

    def type_name(self, name: str) -> str:
        """A tensor's element type as ONNX calls it."""
        kind = self.types.get(name)
        return "of unknown type" if kind is None else type_name(kind) if kind else "no tensor"


class Node:
    """A node and what the facts say of it."""

    def __init__(self, node: onnx.NodeProto, facts: Facts) -> None:
        self.op, self.inputs, self.outputs, self.facts = node.op_type, list(node.input), list(node.output), facts
        self._proto = node

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes by name; strings decoded."""
        found = {a.name: helper.get_attribute_value(a) for a in self._proto.attribute}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}

    def input(self, i: int) -> str:
        """The name of input `i`, empty when it is left out."""
        return self.inputs[i] if i < len(self.inputs) else ""

    def type(self, i: int = 0) -> int:
        """The element type of input `i`; UNDEFINED when unknown."""
        return self.facts.types.get(self.input(i), TensorProto.UNDEFINED)

    def shape(self, i: int = 0) -> tuple[int | None, ...] | None:
        """The shape of input `i`; None when not even the rank is known."""
        return self.facts.shapes.get(self.input(i))

    def value(self, i: int) -> np.ndarray | None:
        """The value of input `i` where it is a constant stored in the graph."""
        return self.facts.array(self.input(i))
