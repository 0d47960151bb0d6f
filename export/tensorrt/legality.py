"""Would TensorRT take this graph? A static check that needs neither a GPU nor TensorRT.

    verdict = check(onnx.load("encoder.onnx"))
    verdict.legal, [str(v) for v in verdict.violations]

From version 11 on TensorRT is strongly typed: int8 comes from QuantizeLinear and DequantizeLinear alone, symmetric,
with constant scales. The rules are those of `export.tensorrt.operators` and below; the parser of the TensorRT-RTX
wheel confirms them in an opt-in test. What is legal here may still be slow, or meet a defect of one version: an engine
is accepted only after it ran beside ONNX Runtime (`export.tensorrt.builder`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.tensorrt.operators import CONSTANT_INPUTS, MOVES_UINT8, OPERATORS, OPSETS, QUANTIZED, TYPES

TOP_K = 3840
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Violation:
    """One thing TensorRT refuses: `node` says where (index, operator, first output), `rule` which, `message` why."""

    node: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message} [{self.rule}]"

    def to_json(self) -> dict[str, str]:
        """The fields, for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a graph, and which of its inputs need an optimisation profile (a dimension is not fixed)."""

    violations: tuple[Violation, ...]
    dynamic_inputs: tuple[str, ...]

    @property
    def legal(self) -> bool:
        """Whether nothing was found."""
        return not self.violations


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


class _Facts:
    """What is known of a graph's tensors before it runs: types, shapes, constants and who reads what."""

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
        return "of unknown type" if kind is None else _type_name(kind) if kind else "no tensor"


class _Node:
    """A node and what the facts say of it."""

    def __init__(self, node: onnx.NodeProto, facts: _Facts) -> None:
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


def _one_output(node: _Node) -> str | None:
    extra = [name for name in node.outputs[1:] if name]
    if not extra:
        return None
    what = "use the portable norm flavour" if node.op == "LayerNormalization" else "TensorRT gives the first only"
    return f"{1 + len(extra)} outputs, one is supported: {what}"


def _no_dilation(node: _Node) -> str | None:
    dilations = node.attributes.get("dilations", ())
    return f"dilations {list(dilations)}; pooling supports 1 only" if any(d != 1 for d in dilations) else None


def _spatial_rank(node: _Node) -> str | None:
    shape = node.shape()
    if shape is None:
        return "its input's rank is unknown; TensorRT needs it when building"
    return None if 3 <= len(shape) <= 5 else f"input of rank {len(shape)}; supported are 3 to 5"


def _zero_point(node: _Node) -> str | None:
    offset = node.value(2)
    if offset is not None and np.any(offset.astype(np.float32)):
        return f"zero point {offset.reshape(-1)[0]}; only 0 is supported: quantize symmetrically"
    kind = node.type(0) if node.op == "DequantizeLinear" else node.facts.types.get(node.outputs[0], 0)
    if kind not in QUANTIZED:
        hint = "; keep biases in float32" if kind == TensorProto.INT32 else "; use int8 with zero point 0"
        return f"quantized type {_type_name(kind)}; supported are int8, int4, float8e4m3fn and float4e2m1{hint}"
    return None


def _scales(node: _Node) -> str | None:
    scale = node.value(1)
    if scale is None or scale.size <= 1 or node.attributes.get("block_size", 0):
        return None
    if node.op == "QuantizeLinear" and node.input(0) not in node.facts.constants:
        return f"{scale.size} scales for an activation; one is supported, per-channel scales are for weights"
    axis = node.attributes.get("axis", 1)
    for reader in node.facts.readers.get(node.outputs[0], ()):
        wanted = {"Conv": 0, "ConvTranspose": 1}.get(reader.op_type)
        if wanted is not None and reader.input[1] == node.outputs[0] and axis != wanted:
            return f"weights of {reader.op_type} quantized along axis {axis}; supported is axis {wanted}"
    return None


def _top_k(node: _Node) -> str | None:
    k = node.value(1)
    return f"K = {int(k.max())}; at most {TOP_K} is supported" if k is not None and k.max() > TOP_K else None


def _resize(node: _Node) -> str | None:
    a = node.attributes
    mode = a.get("coordinate_transformation_mode", "half_pixel")
    if mode not in _RESIZE_MODES:
        return f"coordinate mode {mode}; supported are {', '.join(_RESIZE_MODES)}"
    if a.get("antialias", 0):
        return "antialias is not supported"
    policy = a.get("keep_aspect_ratio_policy", "stretch")
    return None if policy == "stretch" else f"aspect ratio policy {policy}; only stretch is supported"


def _reduction(node: _Node) -> str | None:
    how = node.attributes.get("reduction", "none")
    return None if how == "none" else f"reduction {how} is not supported"


def _range(node: _Node) -> str | None:
    if node.type() not in (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64):
        return f"type {node.facts.type_name(node.input(0))}; supported are float, int32 and int64"
    constant = all(name in node.facts.values for name in node.inputs)
    return (
        "float start, limit and step must be constants" if node.type() == TensorProto.FLOAT and not constant else None
    )


def _integer_mod(node: _Node) -> str | None:
    whole = node.type() in (TensorProto.INT32, TensorProto.INT64)
    return None if node.attributes.get("fmod", 0) or whole else "fmod=0 is for int32 and int64 only"


def _static(node: _Node) -> str | None:
    shape = node.shape()
    return "its input's shape must be fixed" if shape is None or None in shape else None


def _einsum(node: _Node) -> str | None:
    equation = str(node.attributes["equation"]).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "..." in equation or any(len(set(t)) != len(t) for t in terms):
        return f"{equation}: ellipsis and diagonals are not supported"
    return None


def _evaluation(node: _Node) -> str | None:
    if node.op == "BatchNormalization":
        return "training_mode=1 is not supported" if node.attributes.get("training_mode", 0) else None
    training = node.value(2)
    return "training mode is not supported" if training is not None and training.any() else None


def _no_bool(node: _Node) -> str | None:
    return "of booleans is not supported" if node.type() == TensorProto.BOOL else None


def _order(node: _Node) -> str | None:
    p = node.attributes.get("p", 2)
    return None if p in (1, 2) else f"p = {p}; supported are 1 and 2"


def _wide_clip(node: _Node) -> str | None:
    known = node.type() in (*_FLOATS, TensorProto.INT32, TensorProto.INT64)
    return None if known else f"of {node.facts.type_name(node.input(0))}; supported are floats, int32 and int64"


_Rule = Callable[[_Node], str | None]
RULES: dict[str, dict[str, _Rule]] = {
    "LayerNormalization": {"one-output": _one_output},
    "BatchNormalization": {"evaluation-mode": _evaluation, "one-output": _one_output},
    "Dropout": {"evaluation-mode": _evaluation},
    "MaxPool": {"one-output": _one_output, "pool-dilation": _no_dilation},
    "AveragePool": {"pool-dilation": _no_dilation},
    "LpPool": {"pool-dilation": _no_dilation, "norm-order": _order},
    "Conv": {"rank": _spatial_rank},
    "ConvTranspose": {"rank": _spatial_rank},
    "InstanceNormalization": {"rank": _spatial_rank},
    "QuantizeLinear": {"zero-point": _zero_point, "scales": _scales},
    "DequantizeLinear": {"zero-point": _zero_point, "scales": _scales},
    "TopK": {"top-k": _top_k},
    "Resize": {"resize": _resize},
    "ScatterND": {"scatter-reduction": _reduction},
    "ScatterElements": {"scatter-reduction": _reduction},
    "Range": {"range": _range},
    "Mod": {"mod": _integer_mod},
    "EyeLike": {"static-shape": _static},
    "Einsum": {"einsum": _einsum},
    "ReduceMax": {"boolean": _no_bool},
    "ReduceMin": {"boolean": _no_bool},
    "Clip": {"clip-type": _wide_clip},
}
"""operator -> {rule: says what is wrong, or None}."""


def check(model: onnx.ModelProto) -> Verdict:
    """All that TensorRT would refuse in `model`, in the order of its nodes."""
    facts = _Facts(model)
    found = _check_model(model)
    for index, proto in enumerate(facts.nodes):
        node = _Node(proto, facts)
        where = f"{index} {node.op} {node.outputs[0]}"
        found += [Violation(where, rule, message) for rule, message in _check_node(node, proto.domain)]
    dynamic = [i.name for i in model.graph.input if None in facts.shapes.get(i.name, (None,))]
    return Verdict(tuple(found), tuple(name for name in dynamic if name not in facts.values))


def _check_model(model: onnx.ModelProto) -> list[Violation]:
    found = []
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if opset not in OPSETS:
        found.append(
            Violation(
                "model", "opset", f"opset {opset}; supported are {OPSETS.start} to {OPSETS.stop - 1}: export anew"
            )
        )
    if model.functions:
        found.append(Violation("model", "functions", f"{len(model.functions)} local functions; inline them"))
    return found


def _check_node(node: _Node, domain: str) -> list[tuple[str, str]]:
    if domain not in ("", "ai.onnx"):
        return [("domain", f"operator of the domain {domain}; TensorRT knows the standard domain only")]
    if node.op not in OPERATORS:
        return [("operator", "TensorRT has no such operator")]
    found = []
    for name in [*node.inputs, *node.outputs]:
        kind = node.facts.types.get(name) if name else None
        if kind is not None and (kind not in TYPES or (kind == TensorProto.UINT8 and not _moves(node))):
            found.append(("type", f"{name} is {node.facts.type_name(name)}, a type TensorRT does not compute with"))
            break
    for place, name in CONSTANT_INPUTS.get(node.op, ()):
        if node.input(place) and node.input(place) not in node.facts.values:
            found.append(("constant-input", f"{name} must be a constant of the graph, found {node.input(place)}"))
    return found + [(rule, why) for rule, test in RULES.get(node.op, {}).items() if (why := test(node)) is not None]


def _moves(node: _Node) -> bool:
    return node.op in MOVES_UINT8 or node.op in ("QuantizeLinear", "DequantizeLinear")  # those have a rule of their own
