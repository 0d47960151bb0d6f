"""The float graph that everything here starts from: `x -> output`, every parameter a constant, batch norms folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgessl.device.requantize.arithmetic import folded
from edgessl.device.runtime import SessionProfile
from edgessl.encoders import Encoder
from edgessl.errors import ExportError
from export.kernels import check_kernels
from export.lines import Lines, line_of
from export.passes import constants_to_initializers, drop_dead
from export.trace import IR_VERSION, OPSET, trace_frozen_encoder

Array = np.ndarray[Any, np.dtype[Any]]
MAX_EXACT = 1 << 24  # float32 counts no further


@dataclass(frozen=True)
class Origin:
    """Where in flat theta a constant comes from: `theta[index]`, `index` an array of the constant's shape.

    `norm` names the constants (gain, bias, mean, variance) of a batch norm that was folded in, None without one.
    """

    index: Array
    norm: tuple[str, str, str, str] | None = None
    eps: float = 0.0


@dataclass
class FloatGraph:
    """A float ONNX graph of one input `x` and one output, for rewriting.

    Attributes:
        nodes: in topological order.
        constants: every initializer by name.
        output: name of what it gives.
        inputs, outputs: their declarations.
        origins: of the constants that come from theta, where the graph was made from one.
        derived: constants that are computed from theta, not taken from it.
        lines: the line of the model behind each tensor, for errors.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    origins: dict[str, Origin] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)
    lines: Lines = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        return str(self.outputs[0].name)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes `tensor`; None for inputs and constants."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read `tensor`."""
        return [node for node in self.nodes if tensor in node.input]

    def named(self, tensor: str) -> str:
        """`Conv, at model.py:12, in forward`: what makes `tensor`, or reads it first where it is a constant."""
        node = self.producer(tensor) or next(iter(self.consumers(tensor)), None)
        return tensor if node is None else f"{node.op_type}{line_of(node, self.lines)}"

    def model(self, opset: int = OPSET, taps: tuple[str, ...] = ()) -> onnx.ModelProto:
        """A copy as a model; `taps` are tensors that become outputs too, in their order behind the graph's own."""
        used = {name for node in self.nodes for name in node.input}
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used]
        extra = [helper.make_empty_tensor_value_info(name) for name in taps]
        graph = helper.make_graph(list(self.nodes), "encoder", list(self.inputs), [*self.outputs, *extra], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
        model.producer_name = ""
        return model

    def copy(self) -> FloatGraph:
        """A copy that may be rewritten; constants are shared until they are replaced."""
        nodes = []
        for node in self.nodes:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            nodes.append(twin)
        constants, origins = dict(self.constants), dict(self.origins)
        twins = constants, list(self.inputs), list(self.outputs), origins, set(self.derived)
        return FloatGraph(nodes, *twins, self.lines)


def float_graph(model: onnx.ModelProto) -> FloatGraph:
    """The graph of a model of one input `x` and one output, ready for rewriting; `model` stays as it was."""
    graph = _read(model)
    steady, wanted = _take_steady(graph, "")
    graph.constants |= _evaluate(graph.constants, steady, wanted)
    return graph


def float_encoder(encoder: Encoder, output: str = "embedding") -> FloatGraph:
    """The encoder in evaluation mode as a float graph `x -> output`, batch norms folded.

    Raises:
        ExportError: an operator has no ONNX form, or onnxruntime no kernel for it.
    """
    lines: dict[str, str] = {}
    model = trace_frozen_encoder(encoder, output, lines)
    check_kernels(model, "encoder", lines)
    graph = float_graph(model)
    graph.lines = lines
    fold_batch_norms(graph)
    return graph


def with_theta(model: onnx.ModelProto, slot: str, theta: Array, lines: Lines | None = None) -> FloatGraph:
    """A graph `(slot, x) -> output` with the flat weights `theta` (P,) put in, batch norms folded.

    What each constant's origin in theta is, is found by running the same nodes on the numbers 0, 1, 2 ... in theta's
    place, so it holds for whatever slices, reshapes and transposes the exporter wrote. `lines` of the model behind
    the graph's tensors are for errors.

    Raises:
        ExportError: theta has more numbers than float32 can count.
    """
    if theta.size >= MAX_EXACT:
        raise ExportError(f"theta has {theta.size} numbers; their places can be told apart up to {MAX_EXACT}")
    graph = _read(model)
    graph.lines = lines or {}
    steady, wanted = _take_steady(graph, slot)
    flat = theta.astype(np.float32).ravel()
    values, places = (
        _evaluate({**graph.constants, slot: numbers}, steady, wanted)
        for numbers in (flat, np.arange(flat.size, dtype=np.float32))
    )
    graph.inputs = [value for value in graph.inputs if value.name != slot]
    graph.constants |= values
    for name, value in values.items():
        if places[name].dtype != np.float32 or np.array_equal(places[name], value):
            continue  # does not depend on theta
        index = np.rint(places[name]).astype(np.int64).clip(0, flat.size - 1)
        if np.array_equal(index, places[name]) and np.array_equal(flat[index], value):
            graph.origins[name] = Origin(index)
        else:
            graph.derived.add(name)
    fold_batch_norms(graph)
    return graph


def _read(model: onnx.ModelProto) -> FloatGraph:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    constants_to_initializers(twin.graph)
    drop_dead(twin.graph)
    constants = {t.name: numpy_helper.to_array(t) for t in twin.graph.initializer}
    return FloatGraph(list(twin.graph.node), constants, list(twin.graph.input), list(twin.graph.output))


def _take_steady(graph: FloatGraph, slot: str) -> tuple[list[onnx.NodeProto], list[str]]:
    """Removes the nodes that do not depend on `x`; returns them, and which of their results the others read."""
    static = {slot, *graph.constants}
    steady, rest = [], []
    for node in graph.nodes:
        if all(name in static for name in node.input if name):
            static.update(node.output)
            steady.append(node)
        else:
            rest.append(node)
    graph.nodes = rest
    read = {name for node in rest for name in node.input if name}
    return steady, sorted(name for name in read if name in static and name not in graph.constants)


def _evaluate(constants: Mapping[str, Array], nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, Array]:
    """The tensors `wanted` of nodes that need nothing but constants."""
    if not wanted:
        return {}
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    part = FloatGraph(nodes, dict(constants), [], outputs).model()
    session = SessionProfile().session(part.SerializeToString(), "the encoder's parameters")
    return dict(zip(wanted, session.run(None, {}), strict=True))


def fold_batch_norms(graph: FloatGraph) -> None:
    """Every batch norm right behind a convolution goes into its weights and a bias, in place.

    The results stay the same to rounding, and so does the name of what the norm gave.
    """
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        conv = graph.producer(norm.input[0])
        names = tuple(norm.input[1:5])
        alone = conv is not None and conv.op_type == "Conv" and len(graph.consumers(norm.input[0])) == 1
        if not alone or conv is None or not all(name in graph.constants for name in (*names, *conv.input[1:])):
            continue
        eps = attribute(norm, "epsilon", 1e-5)
        gain, bias, mean, variance = (graph.constants[name] for name in names)
        if len(conv.input) > 2:
            mean = mean - graph.constants[conv.input[2]]
        source = conv.input[1]
        kernel, shift = folded(graph.constants[source], gain, bias, mean, variance, eps)
        weight, offset = f"{source}.folded", f"{source}.shift"
        graph.constants |= {weight: kernel, offset: shift}
        if source in graph.origins and len(conv.input) == 2:
            graph.origins[weight] = Origin(graph.origins[source].index, (names[0], names[1], names[2], names[3]), eps)
        output = norm.output[0]
        graph.nodes.remove(norm)
        conv.input[:] = [conv.input[0], weight, offset]
        conv.output[:] = [output]
    drop_unused(graph)


def drop_unused(graph: FloatGraph) -> None:
    """Remove constants that no node reads; those of folded norms stay, their origins are needed."""
    used = {name for node in graph.nodes for name in node.input}
    used |= {name for origin in graph.origins.values() for name in origin.norm or ()}
    graph.constants = {name: value for name, value in graph.constants.items() if name in used}
    graph.origins = {name: origin for name, origin in graph.origins.items() if name in graph.constants}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or `default`."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def run_in_batches(model: onnx.ModelProto, samples: Array, batch: int = 32) -> Array:
    """What a graph of one input `x` and one output gives for `samples`, `batch` at a time."""
    session = SessionProfile().session(model.SerializeToString(), "exported graph")
    return np.concatenate([session.run(None, {"x": samples[i : i + batch]})[0] for i in range(0, len(samples), batch)])


def run_graph(graph: FloatGraph, samples: Array, taps: tuple[str, ...] = (), batch: int = 32) -> Mapping[str, Array]:
    """What the graph gives for `samples`, and its `taps`, by name; `batch` samples at a time."""
    session = SessionProfile().session(graph.model(taps=taps).SerializeToString(), "float graph")
    names = [graph.output, *taps]
    parts = [session.run(names, {"x": samples[i : i + batch]}) for i in range(0, len(samples), batch)]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}
