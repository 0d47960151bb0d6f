"""NVIDIA's own parser and builder, from the TensorRT-RTX wheels, on the same graphs: opt-in, needs no GPU.

    pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs    # NVIDIA's licence; 240 MB

RTX engines are built on the CPU by default; running them needs a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_cases as cases
from onnx import numpy_helper

from edgessl.device.bundle.operators import ALLOWED
from export.tensorrt.legality import check

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX wheels are not installed")

# legal for the check, refused by this parser: type inference it lacks, a shape error, an odd count of half bytes
PARSER_DEFECTS = {"test_celu_float16", "test_celu_bfloat16", "test_matmul_1d_3d", "test_dequantizelinear_float4e2m1"}


@pytest.fixture(scope="module")
def builder() -> Any:
    return trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


def accepts(builder: Any, model: onnx.ModelProto) -> bool:
    network = builder.create_network(0)
    return bool(trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR)).parse(model.SerializeToString()))


@pytest.mark.parametrize("name", [*cases.LEGAL, *cases.STRICTER])
def test_the_parser_takes(builder: Any, name: str) -> None:
    assert accepts(builder, cases.LEGAL[name] if name in cases.LEGAL else cases.STRICTER[name][0])


@pytest.mark.parametrize("name", cases.REFUSED)
def test_the_parser_refuses(builder: Any, name: str) -> None:
    assert not accepts(builder, cases.REFUSED[name][0])


def _standard_cases() -> Iterator[tuple[str, onnx.ModelProto]]:
    """onnx's own one-operator test models, as they are and with all inputs but the first as constants."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        model = case.model
        if model is None or len(model.graph.node) != 1 or model.graph.node[0].op_type.encode() not in ALLOWED:
            continue
        if model.graph.node[0].domain not in ("", "ai.onnx"):
            continue
        model.opset_import[0].version = min(model.opset_import[0].version, 20)
        for fixed in (False, True):
            if fixed:
                if len(model.graph.input) < 2 or not case.data_sets:
                    continue
                for value, array in list(zip(model.graph.input, case.data_sets[0][0], strict=False))[1:]:
                    if not isinstance(array, np.ndarray):
                        break
                    model.graph.initializer.append(numpy_helper.from_array(array, value.name))
                del model.graph.input[1:]
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError:
                continue
            yield case.name, model


@pytest.mark.slow
def test_what_is_legal_is_taken_over_all_of_onnx_s_test_models(builder: Any) -> None:
    both, only_parser, only_check = 0, 0, set()
    for name, model in _standard_cases():
        parser, checked = accepts(builder, model), check(model).legal
        both += parser == checked
        only_parser += parser and not checked
        if checked and not parser:
            only_check.add(name)
    assert only_check <= PARSER_DEFECTS
    assert both > 1500
    assert only_parser < 150  # documented rules that this parser is laxer about


def test_encoders_build_without_a_gpu(builder: Any, case: Any) -> None:
    assert accepts(builder, case.graphs.encoder)
    assert accepts(builder, case.train) == check(case.train).legal
