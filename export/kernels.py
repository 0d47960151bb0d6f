"""Whether stock ONNX Runtime can run an exported graph: for some operators it has no kernel of some types."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
import onnxruntime as ort
from onnx import TensorProto

from edgessl.device.runtime import SessionProfile
from edgessl.errors import BundleError, ExportError
from export.lines import Lines, line_of
from export.rewrites import known_types

_MARK = re.compile(r"edgessl-node-(\d+)")


def check_kernels(model: onnx.ModelProto, what: str, lines: Lines) -> None:
    """Open the graph `what` as a device will.

    Raises:
        ExportError: onnxruntime refuses it; the message names the operator, its types and, from `lines`, the line of
            the model.
    """
    try:
        SessionProfile().session(model.SerializeToString(), what)
    except BundleError as error:
        raise _refused(model, what, lines, str(error)) from None


def _refused(model: onnx.ModelProto, what: str, lines: Lines, why: str) -> ExportError:
    """The error for a graph that did not open: opened again with its nodes named, it says which one is the matter."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for number, node in enumerate(named.graph.node):
        node.name = f"edgessl-node-{number}"
    try:
        SessionProfile().session(named.SerializeToString(), what)
    except BundleError as error:
        if found := _MARK.search(str(error)):
            node = model.graph.node[int(found[1])]
            if "NOT_IMPLEMENTED" in str(error):
                _, dtypes = known_types(onnx.shape_inference.infer_shapes(model).graph)
                types = _types(node, dtypes)
                why = (
                    f"onnxruntime {ort.__version__} has no kernel for it with {types}; cast to float32 or int64 before"
                )
            return ExportError(f"{node.op_type}{line_of(node, lines)}: {why}")
    return ExportError(why)


def _types(node: onnx.NodeProto, dtypes: Mapping[str, int]) -> str:
    names = [TensorProto.DataType.Name(dtypes.get(name, 0)).lower() for name in node.input if name]
    return " and ".join(dict.fromkeys(names)) or "no input"
