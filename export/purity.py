"""What no graph may do, found before it is converted: random numbers, branches, shapes that values decide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.fx import GraphModule, Node

from export.lines import ON_DATA, operator_name, stumbled

aten = torch.ops.aten


def refuse_impure(graph: GraphModule) -> None:
    """A graph is a function of its inputs alone, and the shapes in it depend on theirs, not on their values.

    Raises:
        ExportError: an operator does otherwise; the message names it and the line of the model.
    """
    computed: set[Node] = set()  # from an input; what is made of constants has one shape
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
        if node.op == "call_function" and (why := _impure(node, computed)):
            raise stumbled(operator_name(node.target), node.stack_trace or "", why)


def _impure(node: Node, computed: set[Node]) -> str | None:
    if isinstance(node.target, HigherOrderOperator):
        return ON_DATA
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags:
        return "draws random numbers; the graph must take them from `noise`"
    if torch.Tag.dynamic_output_shape in tags and node in computed and _by_values(node, computed):
        return "makes a tensor whose shape depends on values; keep all rows and weigh them with torch.where"
    return None


def _by_values(node: Node, computed: set[Node]) -> bool:
    """Whether values decide the shape; indexing by numbers, not by a mask, has the shape of the numbers."""
    if node.target is not aten.index.Tensor:
        return True
    places = [place for place in node.args[1] if isinstance(place, Node)]  # type: ignore[union-attr]
    return any(place in computed and _is_mask(place) for place in places)


def _is_mask(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)
