"""The oldest opset and IR version that a graph can honestly claim, so that older runtimes and other consumers read it.

Exporters stamp what they were asked for. Many operators' newest revisions only took more element types; a graph that
uses none of them is, word for word, one of the older opset.
"""

from __future__ import annotations

import onnx
from onnx import defs

IR_OLDEST = 8  # of opset 15; nothing newer is in our graphs: no functions, no device configurations, no 4-bit types
OPSET_OLDEST = 13
# operator -> the revision up to 20 that changed types alone, the one before, attributes that came with the newer
_TYPES_ONLY: dict[str, tuple[int, int, frozenset[str]]] = {
    "Reshape": (19, 14, frozenset()),
    "Shape": (19, 15, frozenset()),
    "Size": (19, 13, frozenset()),
    "Cast": (19, 13, frozenset({"saturate"})),
    "CastLike": (19, 15, frozenset({"saturate"})),
    "Equal": (19, 13, frozenset()),
    "Identity": (19, 16, frozenset()),
    "Constant": (19, 13, frozenset()),
    "ConstantOfShape": (20, 9, frozenset()),
    "ReduceMax": (20, 18, frozenset()),
    "ReduceMin": (20, 18, frozenset()),
}


def lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, stamped in place with the oldest opset and IR version that say the same.

    Every node keeps its revision, or goes to one that differs in element types which float32, int64 and bool are not.
    """
    stamped = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    stamped.version = next(
        v for v in range(OPSET_OLDEST, stamped.version + 1) if _says_the_same(model, v, stamped.version)
    )
    model.ir_version = min(model.ir_version, IR_OLDEST)
    return model


def _says_the_same(model: onnx.ModelProto, version: int, stamped: int) -> bool:
    for node in model.graph.node:
        try:
            old, new = (defs.get_schema(node.op_type, v, "").since_version for v in (version, stamped))
        except defs.SchemaError:
            return False  # the operator is younger
        newer, older, attributes = _TYPES_ONLY.get(node.op_type, (0, 0, frozenset()))
        only_types = (new, old) == (newer, older) and attributes.isdisjoint(a.name for a in node.attribute)
        if old != new and not only_types:
            return False
    return True
