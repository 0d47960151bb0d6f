"""Concat in steps: ONNX Runtime's CUDA provider takes more than 32 inputs of one by way of the host.

That can be captured into no CUDA graph, and it is slow: it was 230 of 250 ms of ResNet-18's step on an H200, whose
gradient is put together of 66 tensors (2026-11-27).
"""

from __future__ import annotations

import onnx
from onnx import helper

WIDEST = 32


def narrow_concats(model: onnx.ModelProto, widest: int = WIDEST) -> None:
    """Every Concat of more than `widest` inputs becomes one of smaller ones, in place; the results stay the same."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
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
    del model.graph.node[:]
    model.graph.node.extend(nodes)
