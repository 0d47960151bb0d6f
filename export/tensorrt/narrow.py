"""Concat in steps: ONNX Runtime's CUDA provider captures at most 32 inputs of one into a CUDA graph."""

from __future__ import annotations

import onnx
from onnx import helper

WIDEST = 32


def narrow_concats(model: bytes, widest: int = WIDEST) -> bytes:
    """`model` with every Concat of more than `widest` inputs made of smaller ones; the results stay the same."""
    loaded = onnx.load_model_from_string(model)
    nodes: list[onnx.NodeProto] = []
    for node in loaded.graph.node:
        while node.op_type == "Concat" and len(node.input) > widest:
            groups = [list(node.input[i : i + widest]) for i in range(0, len(node.input), widest)]
            joined = [
                group[0] if len(group) == 1 else f"{node.output[0]}.part{len(nodes)}.{i}"
                for i, group in enumerate(groups)
            ]
            axis = helper.get_node_attr_value(node, "axis")
            nodes += [
                helper.make_node("Concat", g, [j], axis=axis) for g, j in zip(groups, joined, strict=True) if len(g) > 1
            ]
            node = helper.make_node("Concat", joined, list(node.output), axis=axis)
        nodes.append(node)
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    return loaded.SerializeToString()
