"""Would TensorRT take this graph? A static check that needs neither a GPU nor TensorRT.

    verdict = check(onnx.load("encoder.onnx"))
    verdict.legal, [str(v) for v in verdict.violations]

From version 11 on TensorRT is strongly typed: int8 comes from QuantizeLinear and DequantizeLinear alone, symmetric,
with constant scales. The rules are those of `export.tensorrt.operators` and `rules`; the parser of the TensorRT-RTX
wheel confirms them in an opt-in test. What is legal here may still be slow, or meet a defect of one version: an engine
is accepted only after it ran beside ONNX Runtime (`export.tensorrt.builder`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import onnx
from onnx import TensorProto

from export.tensorrt.facts import Facts, Node
from export.tensorrt.operators import CONSTANT_INPUTS, MOVES_UINT8, OPERATORS, OPSETS, TYPES
from export.tensorrt.rules import RULES


@dataclass(frozen=True)
class Violation:
    """One thing TensorRT refuses: `node` says where (index, operator, first output), `rule` which, `message` why."""

    node: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message} [{self.rule}]"

    @property
    def tensor(self) -> str:
        """The first output of the node; "model" where the graph as a whole is meant."""
        return self.node.split()[-1]

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


def check(model: onnx.ModelProto) -> Verdict:
    """All that TensorRT would refuse in `model`, in the order of its nodes."""
    facts = Facts(model)
    found = _check_model(model)
    for index, proto in enumerate(facts.nodes):
        node = Node(proto, facts)
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


def _check_node(node: Node, domain: str) -> list[tuple[str, str]]:
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


def _moves(node: Node) -> bool:
    return node.op in MOVES_UINT8 or node.op in ("QuantizeLinear", "DequantizeLinear")  # those have a rule of their own
