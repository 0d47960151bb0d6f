"""Small graphs with NVIDIA's parser's verdict on each, as TensorRT-RTX 1.7.1.116 gave it on 2026-11-27.

`test_export_tensorrt_native.py` asks the parser again where its wheel is installed. `LEGAL` are accepted; `REFUSED` are
refused, with the rule of `export.tensorrt.rules` that must say so; `STRICTER` the RTX parser takes although NVIDIA's
documentation does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = tuple[str, int, Sequence[int | str]]
IMAGE: Value = ("x", TensorProto.FLOAT, ("N", 4, 8, 8))
BATCH: Value = ("x", TensorProto.FLOAT, ("N", 8))
ROWS: Value = ("x", TensorProto.FLOAT, (4, 6))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[str],
    constants: dict[str, Any] | None = None,
    opset: int = 20,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of `nodes`; constants become initializers."""
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info(name, kind_, shape) for name, kind_, shape in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    return made


def single(
    op: str,
    inputs: Sequence[str],
    given: Sequence[Value],
    constants: dict[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
    opset: int = 20,
    **attributes: Any,
) -> onnx.ModelProto:
    """One operator; its results named `y`, ... are the graph's."""
    node = helper.make_node(op, list(inputs), list(outputs), **attributes)
    return model([node], given, [name for name in outputs if name], constants, opset, kind)


def qdq_conv(
    zero_point: int = 0,
    activation: type = np.int8,
    bias: str = "float",
    axis: int = 0,
    scales: int = 1,
) -> onnx.ModelProto:
    """A convolution between Q and DQ, as ONNX Runtime's quantizer or a TensorRT writer would write it."""
    weights = np.random.default_rng(0).integers(-127, 127, (4, 4, 3, 3)).astype(np.int8)
    constants: dict[str, Any] = {
        "s": np.full(scales, 0.1, np.float32) if scales > 1 else np.float32(0.1),
        "z": np.full(scales, zero_point, activation) if scales > 1 else activation(zero_point),
        "w": weights,
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float32 if bias == "float" else np.int32),
        "bs": np.full(4, 0.001, np.float32),
        "bz": np.zeros(4, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
    ]
    if bias != "float":
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0))
    nodes.append(helper.make_node("Conv", ["d", "wd", "b" if bias == "float" else "bd"], ["y"], pads=[1, 1, 1, 1]))
    used = {name for node in nodes for name in node.input}
    return model(nodes, [IMAGE], ["y"], {k: v for k, v in constants.items() if k in used})


def _norm(outputs: Sequence[str]) -> onnx.ModelProto:
    return single("LayerNormalization", ["x", "g"], [BATCH], {"g": np.ones(8, np.float32)}, outputs)


def _reduce(axes: Any) -> onnx.ModelProto:
    given = [ROWS] if axes is not None else [ROWS, ("axes", TensorProto.INT64, (1,))]
    return single("ReduceSum", ["x", "axes"], given, None if axes is None else {"axes": np.array(axes)})


def _resize(**attributes: Any) -> onnx.ModelProto:
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    return single("Resize", ["x", "", "scales"], [IMAGE], scales, mode="linear", **attributes)


def _scatter(**attributes: Any) -> onnx.ModelProto:
    constants = {"i": np.array([[1]]), "u": np.zeros((1, 6), np.float32)}
    return single("ScatterND", ["x", "i", "u"], [ROWS], constants, **attributes)


LEGAL: dict[str, onnx.ModelProto] = {
    "layer norm, one output": _norm(["y"]),
    "reduction over constant axes": _reduce([1]),
    "convolution with weights from an input": single(
        "Conv", ["x", "w"], [IMAGE, ("w", TensorProto.FLOAT, (4, 1, 3, 3))], group=4
    ),
    "one-dimensional convolution": single(
        "Conv", ["x", "w"], [("x", TensorProto.FLOAT, ("N", 3, 32)), ("w", TensorProto.FLOAT, (4, 3, 5))]
    ),
    "symmetric int8, float bias": qdq_conv(),
    "float weights through Q and DQ": model(
        [
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
            helper.make_node("Conv", ["x", "d"], ["y"]),
        ],
        [IMAGE], ["y"],
        {"w": np.ones((4, 4, 3, 3), np.float32), "s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)},
    ),
    "bilinear resize": _resize(),
    "scatter": _scatter(),
    "hard sigmoid": single("HardSigmoid", ["x"], [BATCH], alpha=3e38, beta=0.0),
    "top k of a constant k": single("TopK", ["x", "k"], [BATCH], {"k": np.array([3])}, ["y", "i"]),
    "dropout in evaluation": single("Dropout", ["x"], [BATCH]),
    "batch norm": single(
        "BatchNormalization", ["x", "g", "b", "m", "v"], [IMAGE],
        {name: np.ones(4, np.float32) for name in "gbmv"},
    ),
    "instance norm, gains from an input": single(
        "InstanceNormalization", ["x", "g", "b"],
        [IMAGE, ("g", TensorProto.FLOAT, (4,)), ("b", TensorProto.FLOAT, (4,))],
    ),
    "einsum": single("Einsum", ["x", "x"], [ROWS], equation="ij,kj->ik"),
    "eye of a fixed shape": single("EyeLike", ["x"], [ROWS]),
    "bytes in, converted": model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], [("x", TensorProto.UINT8, ("N", 3))], ["y"]
    ),
    "integer modulo": single(
        "Mod", ["x", "m"], [("x", TensorProto.INT64, (4,))], {"m": np.array(3)}, kind=TensorProto.INT64
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "layer norm, three outputs": (_norm(["y", "mean", "rstd"]), "one-output"),
    "reduction over axes from an input": (_reduce(None), "constant-input"),
    "reduction over axes computed from constants": (
        model(
            [helper.make_node("Neg", ["a"], ["axes"]), helper.make_node("ReduceSum", ["x", "axes"], ["y"])],
            [ROWS], ["y"], {"a": np.array([1])},
        ),
        "constant-input",
    ),
    "int32 bias": (qdq_conv(bias="int32"), "zero-point"),
    "non-zero zero point": (qdq_conv(zero_point=7), "zero-point"),
    "uint8 activations": (qdq_conv(zero_point=128, activation=np.uint8), "zero-point"),
    "batch norm in training": (
        single(
            "BatchNormalization", ["x", "g", "b", "m", "v"], [IMAGE],
            {name: np.ones(4, np.float32) for name in "gbmv"}, ["y", "rm", "rv"], training_mode=1,
        ),
        "evaluation-mode",
    ),
    "dropout in training": (
        single("Dropout", ["x", "r", "t"], [BATCH], {"r": np.float32(0.5), "t": np.array(True)}), "evaluation-mode",
    ),
    "max pool with indices": (
        single("MaxPool", ["x"], [IMAGE], outputs=["y", "i"], kernel_shape=[2, 2]), "one-output",
    ),
    "dilated pool": (single("MaxPool", ["x"], [IMAGE], kernel_shape=[2, 2], dilations=[2, 2]), "pool-dilation"),
    "lp pool of order 3": (single("LpPool", ["x"], [IMAGE], kernel_shape=[2, 2], p=3), "norm-order"),
    "scatter that adds": (_scatter(reduction="add"), "scatter-reduction"),
    "resize to a crop": (
        single(
            "Resize", ["x", "roi", "scales"], [IMAGE],
            {"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "scales": np.array([1, 1, 2, 2], np.float32)},
            coordinate_transformation_mode="tf_crop_and_resize", mode="linear",
        ),
        "resize",
    ),
    "resize with antialias": (_resize(antialias=1), "resize"),
    "modulo of floats": (single("Mod", ["x", "m"], [ROWS], {"m": np.float32(3)}, fmod=0), "mod"),
    "16-bit integers": (
        single("Add", ["x", "x"], [("x", TensorProto.INT16, (4,))], kind=TensorProto.INT16), "type",
    ),
    "arithmetic on bytes": (
        single("Add", ["x", "x"], [("x", TensorProto.UINT8, (4,))], kind=TensorProto.UINT8), "type",
    ),
    "range of half floats": (
        single(
            "Range", ["a", "b", "c"], [], {k: np.float16(v) for k, v in zip("abc", (0, 4, 1), strict=True)},
            kind=TensorProto.FLOAT16,
        ),
        "range",
    ),
    "greatest of booleans": (
        single("ReduceMax", ["x"], [("x", TensorProto.BOOL, (4, 3))], kind=TensorProto.BOOL), "boolean",
    ),
    "dynamic quantization": (
        single(
            "DynamicQuantizeLinear", ["x"], [BATCH], None, ["y", "s", "z"], kind=TensorProto.UINT8
        ),
        "operator",
    ),
    "image from columns": (
        single(
            "Col2Im", ["x", "s", "b"], [("x", TensorProto.FLOAT, (1, 16, 16))],
            {"s": np.array([8, 8]), "b": np.array([4, 4])},
        ),
        "operator",
    ),
    "cross entropy": (
        single("SoftmaxCrossEntropyLoss", ["x", "l"], [ROWS, ("l", TensorProto.INT64, (4,))]), "operator",
    ),
    "eye of a dynamic shape": (single("EyeLike", ["x"], [BATCH]), "static-shape"),
}  # fmt: skip

STRICTER: dict[str, tuple[onnx.ModelProto, str]] = {
    "k from an input": (
        single("TopK", ["x", "k"], [BATCH, ("k", TensorProto.INT64, (1,))], None, ["y", "i"]), "constant-input",
    ),
    "slice along an axis from an input": (
        single(
            "Slice", ["x", "s", "e", "a"], [ROWS, ("a", TensorProto.INT64, (1,))],
            {"s": np.array([0]), "e": np.array([2])},
        ),
        "constant-input",
    ),
    "a scale from an input": (
        single(
            "QuantizeLinear", ["x", "s", "z"], [BATCH, ("s", TensorProto.FLOAT, ())], {"z": np.int8(0)},
            kind=TensorProto.INT8,
        ),
        "constant-input",
    ),
    "uint8 activations at zero": (qdq_conv(activation=np.uint8), "zero-point"),
    "per-channel activations": (qdq_conv(scales=4), "scales"),
    "weights along their inputs": (qdq_conv(axis=1), "scales"),
    "foreign operator": (single("Gelu", ["x"], [BATCH], domain="com.microsoft"), "domain"),
    "opset 8": (single("Relu", ["x"], [BATCH], opset=8), "opset"),
    "diagonal in an einsum": (single("Einsum", ["x"], [("x", TensorProto.FLOAT, (4, 4))], equation="ii->i"), "einsum"),
    "top 5000": (
        single("TopK", ["x", "k"], [("x", TensorProto.FLOAT, (6000,))], {"k": np.array([5000])}, ["y", "i"]), "top-k",
    ),
}  # fmt: skip
