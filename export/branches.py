"""Names the two halves of a training step, so that a device with two threads can run them at once.

`export.pieces` lets the encoder take each half of a batch by itself, so most of a step falls into two halves that do
not read each other: forward passes, then, behind the loss, backward passes. onnxruntime's own parallel execution is of
no use here, since its calling thread spins all the while. Every node's name begins with the part of the step it belongs
to (behind a slash is its number):

    "0"    before everything: views, weights in the shapes that operators want
    "1a"   "1b"    one half each, at the same time
    "2"    the loss, which joins the halves
    "3a"   "3b"    ... "4"    sum of the gradients, optimizer

"1a 3a" is computed in both: a cheap activation is made again rather than kept from the forward to the backward pass.
Values that cross from part to part get a type (`value_info`). Runtimes ignore both, and the graph stays one graph;
`edgessl.device.halves` cuts it. Zen 2, two threads, 2026-11-27: see docs/step.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

_LEAST_SHARE = 0.02  # of the step's work, for a half of one stage to be worth a thread
_WORTHWHILE = 0.3  # of the step's work in halves, for a step to be cut at all
_CHEAP = ("Add", "BatchNormalization", "Erf", "HardSigmoid", "Mul", "Relu", "Reshape", "Sub")
_JOINED = -1
_FLOAT = 4


def name_halves(model: onnx.ModelProto, batch_inputs: tuple[str, ...]) -> bool:
    """Name the parts of `model`, in place, and type what crosses between them. False, and no change, where the step has
    no halves worth it.

    `batch_inputs`: inputs whose first axis is the batch.
    """
    graph = model.graph
    values = _Values(model)
    parts = _merged(graph, _stages(graph, values, batch_inputs), values)
    if parts is None:
        return False
    _sink(graph, parts, values)
    names = _with_repeats(graph, parts, values)
    for i, (node, name) in enumerate(zip(graph.node, names, strict=True)):
        node.name = f"{name}/{i}"  # a node's name must be its own
    _type_crossings(graph, names, values)
    return True


class _Values:
    """What is known of a graph's values: type and shape, and constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        # sizes are fixed; with data_prop onnx would keep a message for each number of theta: 15 GB for resnet18
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.info = {value.name: value for value in [*graph.value_info, *graph.input, *graph.output]}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def shape(self, name: str) -> list[int]:
        """Empty where it is not known."""
        value = self.info.get(name)
        return [d.dim_value for d in value.type.tensor_type.shape.dim] if value is not None else []

    def bytes(self, name: str) -> int:
        return _FLOAT * int(np.prod(self.shape(name), dtype=np.int64)) if name in self.info else 0

    def work(self, node: onnx.NodeProto) -> int:
        """Bytes that `node` touches: a stand-in for its time."""
        return sum(self.bytes(name) for name in [*node.input, *node.output] if name)


Part = tuple[int, int]  # stage, and half 0 or 1 or _JOINED


def _stages(graph: onnx.GraphProto, values: _Values, batch_inputs: tuple[str, ...]) -> list[Part]:
    """Each node's stage and half: odd stages are one half's, even ones join; a half ends where something reads both."""
    of: dict[str, Part] = {}
    samples = set(batch_inputs)
    parts = []
    for node in graph.node:
        read = [of[name] for name in node.input if name in of]
        halves = {half for _, half in read if half != _JOINED}
        if samples.intersection(node.input):
            samples.update(node.output)
        if not halves and node.op_type == "Slice" and node.input[0] in samples:
            half = _half(node, values)
        else:
            half = halves.pop() if len(halves) == 1 else _JOINED
        joined = half == _JOINED
        stage = max((s if (h == _JOINED) == joined else s + 1 for s, h in read), default=0)
        stage += stage % 2 != (0 if joined else 1)
        parts.append((stage, half))
        of.update((name, parts[-1]) for name in node.output if name)
    return parts


def _half(node: onnx.NodeProto, values: _Values) -> int:
    """0 or 1 for a slice of rows within one half of its input's rows, else _JOINED."""
    shape = values.shape(node.input[0])
    given = [values.constants.get(name) for name in node.input[1:4]]
    if len(shape) < 2 or len(given) < 3 or any(tensor is None for tensor in given):
        return _JOINED
    start, end, axis = (numpy_helper.to_array(tensor).ravel() for tensor in given if tensor is not None)
    if axis.tolist() != [0] or start[0] < 0 or end[0] < 0:
        return _JOINED
    middle = shape[0] - shape[0] // 2
    if end[0] <= middle:
        return 0
    return 1 if start[0] >= middle else _JOINED


def _merged(graph: onnx.GraphProto, parts: list[Part], values: _Values) -> list[Part] | None:
    """Stages whose halves are too small join their neighbours, the rest are numbered anew; None where none is left."""
    work: Counter[Part] = Counter()
    for node, part in zip(graph.node, parts, strict=True):
        work[part] += values.work(node)
    total = work.total()
    kept = {s for s, half in work if half == 0 and min(work[s, 0], work[s, 1]) > _LEAST_SHARE * total}
    if sum(work[s, 0] + work[s, 1] for s in kept) < _WORTHWHILE * total:
        return None
    renumbered: dict[int, int] = {}
    current = 0
    for stage in sorted({s for s, _ in parts}):
        if stage in kept:
            current += 1 + current % 2
        elif current % 2:
            current += 1
        renumbered[stage] = current
    return [(renumbered[s], half if s in kept else _JOINED) for s, half in parts]


def _sink(graph: onnx.GraphProto, parts: list[Part], values: _Values) -> None:
    """Move what only a later stage of the same half reads into that stage, in place, unless it sums up what it is made
    of: else a forward pass would make the copies and derivatives that the backward pass needs, and keep them."""
    readers: dict[str, list[Part]] = defaultdict(list)
    kept = {output.name for output in graph.output}
    for i in range(len(graph.node) - 1, -1, -1):
        node, (stage, half) = graph.node[i], parts[i]
        later = [part for name in node.output for part in readers[name]]
        made, read = (max(map(values.bytes, names), default=0) for names in (node.output, node.input))
        movable = half != _JOINED and later and all(s > stage and h == half for s, h in later)
        if movable and (made >= read or node.op_type == "Slice") and kept.isdisjoint(node.output):
            parts[i] = min(later)
        for name in node.input:
            readers[name].append(parts[i])


def _with_repeats(graph: onnx.GraphProto, parts: list[Part], values: _Values) -> list[str]:
    """The nodes' names: the part of each, and the later ones of the same half that make its result again."""
    made_by = {output: i for i, node in enumerate(graph.node) for output in node.output if output}
    again: dict[int, set[Part]] = defaultdict(set)
    for part in sorted({p for p in parts if p[1] != _JOINED}):
        needed = {name for node, p in zip(graph.node, parts, strict=True) if p == part for name in node.input}
        needed = {name for name in needed if name in made_by and parts[made_by[name]] != part}
        crossing = {name for name in needed if not _repeatable(graph.node[made_by[name]], parts[made_by[name]])}
        origins = {name: _origins(name, graph, parts, made_by, crossing) for name in needed - crossing}
        users = Counter(value for values_of, _ in origins.values() for value in values_of)
        for name in sorted(origins, key=made_by.__getitem__):
            made_of, nodes = origins[name]
            price = sum(values.bytes(value) / users[value] for value in made_of - crossing)
            if price < values.bytes(name):
                crossing |= made_of
                for i in nodes:
                    again[i].add(part)
            else:
                crossing.add(name)
    return [" ".join(map(_name, [part, *sorted(again[i])])) for i, part in enumerate(parts)]


def _repeatable(node: onnx.NodeProto, part: Part) -> bool:
    return part[1] != _JOINED and node.op_type in _CHEAP


def _origins(
    name: str, graph: onnx.GraphProto, parts: list[Part], made_by: Mapping[str, int], crossing: set[str]
) -> tuple[set[str], set[int]]:
    """The values of earlier parts that `name` can be made of by cheap nodes, and those nodes."""
    origins: set[str] = set()
    nodes: set[int] = set()
    todo = [name]
    while todo:
        value = todo.pop()
        i = made_by.get(value)
        if i is None or i in nodes:
            continue
        if value in crossing or not _repeatable(graph.node[i], parts[i]):
            origins.add(value)
            continue
        nodes.add(i)
        todo += [read for read in graph.node[i].input if read]
    return origins, nodes


def _name(part: Part) -> str:
    return f"{part[0]}{'' if part[1] == _JOINED else 'ab'[part[1]]}"


def _type_crossings(graph: onnx.GraphProto, names: list[str], values: _Values) -> None:
    named = list(zip(graph.node, names, strict=True))
    made_in = {output: set(name.split()) for node, name in named for output in node.output if output}
    crossing: dict[str, None] = {}
    for node, name in named:
        for value in node.input:
            if value in made_in and not made_in[value].issuperset(name.split()):
                crossing[value] = None
    outputs = {output.name for output in graph.output}
    graph.value_info.extend(values.info[value] for value in crossing if value not in outputs)
