"""A training step in parts: its two halves run at once, in two threads, or one after the other in less memory.

A graph's nodes may be named "PARTS/NUMBER" for the parts of the step they belong to (`export.branches`): "0", "2",
"4" ... for what joins the halves of a batch, "1a", "1b" ... for what one half does by itself. Here the graph is cut
along these names and each part becomes a session. Of a stage with two halves, one runs in a thread of its own, or they
take turns: then each needs its memory alone, and what is cheap to make again is not kept in between. The parts are the
graph's own bytes in another arrangement, and the same values come out each time.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import onnxruntime as ort

from edgessl.device.bundle.onnxwire import encoded, fields
from edgessl.errors import BundleError

_WHAT = "the training step"
_MODEL_GRAPH = 7
_NODE, _GRAPH_NAME, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 2, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = 1, 2, 3, 4
_PART = re.compile(r"(\d{1,3})[ab]?")
_NAME = {_INITIALIZER: 8, _INPUT: 1, _OUTPUT: 1, _VALUE_INFO: 1}


@dataclass
class Part:
    """A piece of the step: its graph, what it reads, and what others or the caller read of it."""

    name: str
    model: bytes
    reads: list[str]
    gives: list[str]

    @property
    def stage(self) -> int:
        """Parts of one stage run at once."""
        return _stage(self.name)


@dataclass
class _Node:
    data: memoryview
    parts: list[str]
    reads: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)


def _stage(name: str) -> int:
    if not (found := _PART.fullmatch(name)):
        raise BundleError(f"the training step cannot be cut: {name!r} names no part of it")
    return int(found[1])


def made_again(model: bytes) -> set[str] | None:
    """The operators of a checked graph that more than one part computes; None for a graph that names no halves."""
    graphs = (value for number, _, value in fields(memoryview(model), _WHAT) if number == _MODEL_GRAPH)
    nodes = (
        data for graph in graphs if isinstance(graph, memoryview) for n, _, data in fields(graph, _WHAT) if n == _NODE
    )
    halved, again = False, set[str]()
    for data in nodes:
        if isinstance(data, memoryview):
            names, operators = _texts(data, _NODE_NAME, _NODE_OPERATOR)
            parts = _parts(names)
            halved |= "1a" in parts
            again.update(operators if len(parts) > 1 else ())
    return again if halved else None


def cut(model: bytes) -> tuple[list[Part], list[str]]:
    """The parts of a checked graph (`check_graph`) that has halves, in order, and the graph's outputs.

    Raises:
        BundleError: the names do not make a step: a part reads what no earlier one makes.
    """
    graph = _Graph(model)
    names = sorted({part for node in graph.nodes for part in node.parts}, key=lambda name: (_stage(name), name))
    inside = {name: [node for node in graph.nodes if name in node.parts] for name in names}
    reads = {name: list(dict.fromkeys(_read_by(nodes, graph))) for name, nodes in inside.items()}
    reads[names[0]] = [*graph.inputs, *(value for value in reads[names[0]] if value not in graph.inputs)]
    wanted = {*graph.outputs}.union(*reads.values())
    parts = []
    there = set(graph.inputs)
    stage = -1
    made_now: set[str] = set()
    for name in names:
        if _stage(name) != stage:
            stage, there, made_now = _stage(name), there | made_now, set()
        if missing := [value for value in reads[name] if value not in there]:
            raise BundleError(
                f"the training step cannot be cut: its part {name} reads {missing[0]!r} before it is made"
            )
        gives = [v for node in inside[name] if node.parts[0] == name for v in node.makes if v in wanted]
        made_now.update(gives)
        parts.append(Part(name, graph.part(inside[name], reads[name], gives), reads[name], gives))
    if lost := set(graph.outputs) - there - made_now:
        raise BundleError(f"the training step cannot be cut: no part makes its output {min(lost)!r}")
    return parts, graph.outputs


def _read_by(nodes: Iterable[_Node], graph: "_Graph") -> Iterable[str]:
    made: set[str] = set()
    for node in nodes:
        yield from (value for value in node.reads if value not in made and value not in graph.initializers)
        made.update(node.makes)


class _Graph:
    """A graph's nodes, constants, inputs, outputs and types as they lie in the file."""

    def __init__(self, model: bytes) -> None:
        self._around: list[bytes] = []
        self.nodes: list[_Node] = []
        self.initializers: dict[str, memoryview] = {}
        self.types: dict[str, memoryview] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        for number, _, value in fields(memoryview(model), _WHAT):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                self._read(value)
            else:
                self._around.append(encoded(number, value))

    def _read(self, graph: memoryview) -> None:
        for number, _, data in fields(graph, _WHAT):
            if not isinstance(data, memoryview):
                continue
            if number == _NODE:
                self.nodes.append(_node(data))
            elif number in _NAME:
                name = _texts(data, _NAME[number])[0][0]
                (self.initializers if number == _INITIALIZER else self.types)[name] = data
                if number in (_INPUT, _OUTPUT):
                    (self.inputs if number == _INPUT else self.outputs).append(name)

    def part(self, nodes: Sequence[_Node], reads: Sequence[str], gives: Sequence[str]) -> bytes:
        """A model of some of the nodes."""
        constants = dict.fromkeys(v for node in nodes for v in node.reads if v in self.initializers)
        untyped = [value for value in (*reads, *gives) if value not in self.types]
        if untyped:
            raise BundleError(f"the training step cannot be cut: {untyped[0]!r} crosses its parts without a type")
        graph = b"".join(
            [
                *(encoded(_NODE, node.data) for node in nodes),
                encoded(_GRAPH_NAME, b"part"),
                *(encoded(_INITIALIZER, self.initializers[value]) for value in constants),
                *(encoded(_INPUT, self.types[value]) for value in reads),
                *(encoded(_OUTPUT, self.types[value]) for value in gives),
            ]
        )
        return b"".join([*self._around, encoded(_MODEL_GRAPH, graph)])


def _node(data: memoryview) -> _Node:
    names, reads, makes = _texts(data, _NODE_NAME, _NODE_INPUT, _NODE_OUTPUT)
    return _Node(data, _parts(names), [read for read in reads if read], [made for made in makes if made])


def _parts(names: list[str]) -> list[str]:
    return "".join(names).split("/")[0].split() or ["0"]


def _texts(data: memoryview, *wanted: int) -> list[list[str]]:
    """The texts in each of the fields `wanted`."""
    found: dict[int, list[str]] = {number: [] for number in wanted}
    for number, _, value in fields(data, _WHAT):
        if number in found and isinstance(value, memoryview):
            found[number].append(bytes(value).decode(errors="replace"))
    return list(found.values())


class HalvesSession:
    """The parts of a step as one session: `run_with_ort_values` as `onnxruntime.InferenceSession` has it.

    Args:
        model: a checked graph with halves.
        make: a session of a part's bytes, told whether it runs beside another.
        at_once: run the two halves of a stage in two threads, not one after the other.
    """

    def __init__(self, model: bytes, make: Callable[[bytes, bool], ort.InferenceSession], at_once: bool) -> None:
        parts, self._outputs = cut(model)
        self._sessions = {part.name: make(part.model, at_once and not part.name.isdigit()) for part in parts}
        self._turns: list[list[Part]] = []
        for part in parts:
            if not self._turns or not at_once or self._turns[-1][0].stage != part.stage:
                self._turns.append([])
            self._turns[-1].append(part)
        last = {value: turn for turn, now in enumerate(self._turns) for part in now for value in part.reads}
        self._done: list[list[str]] = [[] for _ in self._turns]
        for value, turn in last.items():
            if value not in self._outputs:
                self._done[turn].append(value)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgessl-half")

    def get_inputs(self) -> list[ort.NodeArg]:
        """The step's inputs; the first part declares them all."""
        return list(self._sessions[self._turns[0][0].name].get_inputs())

    def get_outputs(self) -> list[ort.NodeArg]:
        """The step's outputs."""
        nodes = [node for session in self._sessions.values() for node in session.get_outputs()]
        return [node for node in nodes if node.name in self._outputs]

    def run_with_ort_values(self, outputs: Sequence[str], feeds: Mapping[str, ort.OrtValue]) -> list[ort.OrtValue]:
        """The step's `outputs`, for all of its inputs."""
        values = dict(feeds)
        for turn, done in zip(self._turns, self._done, strict=True):
            others = [self._threads.submit(self._run, part, values) for part in turn[1:]]
            made = [self._run(turn[0], values), *(other.result() for other in others)]
            for name in done:
                values.pop(name, None)  # what the halves kept for their backward passes is most of a step's memory
            for results in made:
                values.update(results)
        return [values[name] for name in outputs]

    def _run(self, part: Part, values: Mapping[str, ort.OrtValue]) -> dict[str, ort.OrtValue]:
        feeds = {name: values[name] for name in part.reads}
        return dict(zip(part.gives, self._sessions[part.name].run_with_ort_values(part.gives, feeds), strict=True))
