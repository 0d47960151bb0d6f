"""The legality check: verdicts that NVIDIA's parser gave, on small graphs and on what we export. Needs no GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_cases as cases
from onnx import helper

from edgessl.device.bundle.operators import ALLOWED
from export.tensorrt.legality import RULES, check
from export.tensorrt.operators import CONSTANT_INPUTS, OPERATORS, OPSETS


@pytest.mark.parametrize("name", cases.LEGAL)
def test_what_the_parser_takes_is_legal(name: str) -> None:
    verdict = check(cases.LEGAL[name])
    assert verdict.legal, [str(v) for v in verdict.violations]


@pytest.mark.parametrize("name", [*cases.REFUSED, *cases.STRICTER])
def test_what_is_refused_is_named(name: str) -> None:
    model, rule = {**cases.REFUSED, **cases.STRICTER}[name]
    verdict = check(model)
    assert not verdict.legal
    found = next(v for v in verdict.violations if v.rule == rule)
    operators = {node.op_type for node in model.graph.node}
    assert rule == "opset" or found.node.split()[1] in operators
    assert set(found.to_json()) == {"node", "rule", "message"}
    assert found.message in str(found)


def test_every_rule_has_a_case() -> None:
    asked = {rule for _, rule in [*cases.REFUSED.values(), *cases.STRICTER.values()]}
    rules = {rule for tests in RULES.values() for rule in tests}
    assert rules - {"rank", "clip-type"} <= asked
    assert {"constant-input", "type", "operator", "domain", "opset"} <= asked


def test_a_point_convolution_without_rank_or_with_too_few_dimensions() -> None:
    flat = cases.single("Conv", ["x", "w"], [("x", 1, (4, 8)), ("w", 1, (4, 8))])
    assert [v.rule for v in check(flat).violations] == ["rank"]


def test_the_tables_name_real_operators() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert known >= OPERATORS
    assert set(RULES) | set(CONSTANT_INPUTS) <= OPERATORS
    assert {"Loop", "If", "RandomUniform", "NonZero"}.isdisjoint(OPERATORS)
    assert len({name.decode() for name in ALLOWED} & OPERATORS) > 100
    assert 20 in OPSETS


def test_dynamic_inputs_need_a_profile() -> None:
    assert check(cases.LEGAL["batch norm"]).dynamic_inputs == ("x",)
    assert check(cases.LEGAL["scatter"]).dynamic_inputs == ()


def test_local_functions_and_things_that_are_no_tensor() -> None:
    model = cases.single("Relu", ["x"], [cases.BATCH])
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("here", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 20)]))
    assert [v.rule for v in check(model).violations] == ["functions"]
    of_tensors = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, (2,)))
    listed = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", of_tensors)],
        [helper.make_value_info("y", of_tensors)],
    )
    sequence = helper.make_model(listed, opset_imports=[helper.make_opsetid("", 20)])
    assert [v.rule for v in check(sequence).violations] == ["type"]


def test_exported_encoders_are_legal_and_steps_but_for_their_layer_norms(case: Any) -> None:
    encoder, train = check(case.graphs.encoder), check(case.train)
    assert encoder.legal, [str(v) for v in encoder.violations]
    assert encoder.dynamic_inputs == ("x",)
    assert train.dynamic_inputs == ()
    # the fast flavour of the norms takes LayerNormalization's second and third output; nothing else stands in the way
    assert {v.node.split()[1] for v in train.violations} <= {"LayerNormalization"}
    expected = [n for n in case.train.graph.node if n.op_type == "LayerNormalization" and len(n.output) > 1]
    assert len(train.violations) == len(expected)


def test_checking_needs_no_torch() -> None:
    code = (
        "import sys, export.tensorrt.legality; print(sorted({'torch', 'onnxruntime', 'tensorrt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_zero_points_of_any_shape() -> None:
    last = cases.qdq_conv(scales=4)
    offsets = next(t for t in last.graph.initializer if t.name == "z")
    offsets.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 0, 0, 1], np.int8), "z"))
    assert "zero-point" in {v.rule for v in check(last).violations}
