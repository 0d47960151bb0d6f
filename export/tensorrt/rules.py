"""What TensorRT asks of single operators beyond their types: a rule is a function of a node that says what is wrong.

Sources: NVIDIA's operator table (onnx-tensorrt, docs/operators.md) and the answers of the parser itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from export.tensorrt.facts import Node, type_name
from export.tensorrt.operators import QUANTIZED

TOP_K = 3840
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _one_output(node: Node) -> str | None:
    extra = [name for name in node.outputs[1:] if name]
    if not extra:
        return None
    what = "use the portable norm flavour" if node.op == "LayerNormalization" else "TensorRT gives the first only"
    return f"{1 + len(extra)} outputs, one is supported: {what}"


def _no_dilation(node: Node) -> str | None:
    dilations = node.attributes.get("dilations", ())
    return f"dilations {list(dilations)}; pooling supports 1 only" if any(d != 1 for d in dilations) else None


def _spatial_rank(node: Node) -> str | None:
    shape = node.shape()
    if shape is None:
        return "its input's rank is unknown; TensorRT needs it when building"
    return None if 3 <= len(shape) <= 5 else f"input of rank {len(shape)}; supported are 3 to 5"


def _zero_point(node: Node) -> str | None:
    offset = node.value(2)
    if offset is not None and np.any(offset.astype(np.float32)):
        return f"zero point {offset.reshape(-1)[0]}; only 0 is supported: quantize symmetrically"
    kind = node.type(0) if node.op == "DequantizeLinear" else node.facts.types.get(node.outputs[0], 0)
    if kind not in QUANTIZED:
        hint = "; keep biases in float32" if kind == TensorProto.INT32 else "; use int8 with zero point 0"
        return f"quantized type {type_name(kind)}; supported are int8, int4, float8e4m3fn and float4e2m1{hint}"
    return None


def _scales(node: Node) -> str | None:
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


def _top_k(node: Node) -> str | None:
    k = node.value(1)
    return f"K = {int(k.max())}; at most {TOP_K} is supported" if k is not None and k.max() > TOP_K else None


def _resize(node: Node) -> str | None:
    a = node.attributes
    mode = a.get("coordinate_transformation_mode", "half_pixel")
    if mode not in _RESIZE_MODES:
        return f"coordinate mode {mode}; supported are {', '.join(_RESIZE_MODES)}"
    if a.get("antialias", 0):
        return "antialias is not supported"
    policy = a.get("keep_aspect_ratio_policy", "stretch")
    return None if policy == "stretch" else f"aspect ratio policy {policy}; only stretch is supported"


def _reduction(node: Node) -> str | None:
    how = node.attributes.get("reduction", "none")
    return None if how == "none" else f"reduction {how} is not supported"


def _range(node: Node) -> str | None:
    if node.type() not in (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64):
        return f"type {node.facts.type_name(node.input(0))}; supported are float, int32 and int64"
    constant = all(name in node.facts.values for name in node.inputs)
    return (
        "float start, limit and step must be constants" if node.type() == TensorProto.FLOAT and not constant else None
    )


def _integer_mod(node: Node) -> str | None:
    whole = node.type() in (TensorProto.INT32, TensorProto.INT64)
    return None if node.attributes.get("fmod", 0) or whole else "fmod=0 is for int32 and int64 only"


def _static(node: Node) -> str | None:
    shape = node.shape()
    return "its input's shape must be fixed" if shape is None or None in shape else None


def _einsum(node: Node) -> str | None:
    equation = str(node.attributes["equation"]).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "..." in equation or any(len(set(t)) != len(t) for t in terms):
        return f"{equation}: ellipsis and diagonals are not supported"
    return None


def _evaluation(node: Node) -> str | None:
    if node.op == "BatchNormalization":
        return "training_mode=1 is not supported" if node.attributes.get("training_mode", 0) else None
    training = node.value(2)
    return "training mode is not supported" if training is not None and training.any() else None


def _no_bool(node: Node) -> str | None:
    return "of booleans is not supported" if node.type() == TensorProto.BOOL else None


def _order(node: Node) -> str | None:
    p = node.attributes.get("p", 2)
    return None if p in (1, 2) else f"p = {p}; supported are 1 and 2"


def _wide_clip(node: Node) -> str | None:
    known = node.type() in (*_FLOATS, TensorProto.INT32, TensorProto.INT64)
    return None if known else f"of {node.facts.type_name(node.input(0))}; supported are floats, int32 and int64"


Rule = Callable[[Node], str | None]
RULES: dict[str, dict[str, Rule]] = {
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
