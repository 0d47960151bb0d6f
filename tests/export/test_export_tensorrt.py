"""The legality check: verdicts that NVIDIA's parser gave, on small graphs and on what we export. Needs no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tensorrt_cases as cases
import torch
from onnx import helper

from edgessl.device import Bundle
from edgessl.device.bundle.operators import ALLOWED
from edgessl.errors import BundleError, ConfigError, ExportError, InputError, MissingDependencyError
from export.lowerings import Lowerings
from export.tensorrt.builder import EngineSettings, build_plan
from export.tensorrt.doors import open_door, relative_errors
from export.tensorrt.driver import Driver, DriverError
from export.tensorrt.engine import EngineRecord, open_engine, sample_feeds
from export.tensorrt.gate import gate
from export.tensorrt.legality import check
from export.tensorrt.library import Library, load_library, parse_version, refuse_refit
from export.tensorrt.narrow import narrow_concats
from export.tensorrt.operators import CONSTANT_INPUTS, OPERATORS, OPSETS
from export.tensorrt.rules import RULES
from export.trace import trace_function


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


def test_the_gate_counts_and_refuses_what_was_promised() -> None:
    norm, legal = cases.REFUSED["layer norm, three outputs"][0], cases.LEGAL["scatter"]
    int8 = cases.qdq_conv(128, np.uint8, bias="int32")
    models = {"train": norm, "encoder": legal, "encoder_int8": int8}
    assert gate(models, {"encoder_trt"}, {}) == {"train": 1, "encoder": 0}  # the CPU's form is not TensorRT's business
    with pytest.raises(ExportError, match=r"train: made for TensorRT, which would refuse 1 thing(.|\n)*portable"):
        gate(models, {"train"}, {})
    lines = {"train": {norm.graph.node[0].output[0]: "model.py:7, in forward"}}
    with pytest.raises(ExportError, match=r"LayerNormalization \w+: .*, at model\.py:7, in forward"):
        gate(models, {"train"}, lines)
    with pytest.raises(ExportError, match="encoder_trt"):
        gate({"encoder_trt": int8}, {"encoder_trt"}, {})


def test_an_illegal_graph_is_not_given_to_the_builder() -> None:
    library = Library("tensorrt", None, (11, 4, 0))
    with pytest.raises(ExportError, match=r"1 things in this graph(.|\n)*constant-input"):
        build_plan(library, cases.REFUSED["reduction over axes from an input"][0].SerializeToString())


@pytest.mark.parametrize(("batch", "workspace"), [((0, 1, 2), 1), ((2, 1, 3), 1), ((1, 3, 2), 1), ((1, 1, 1), 0)])
def test_impossible_settings(batch: tuple[int, int, int], workspace: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        EngineSettings(batch, workspace)


def test_versions() -> None:
    assert parse_version("11.4.0.106") == (11, 4, 0, 106)
    assert parse_version("10.8.0b1+cu13") == (10, 8, 0, 1)
    module = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    assert Library("tensorrt", module, (10, 13)).network_flags() == 2
    assert Library("tensorrt", module, (11, 0)).network_flags() == 0
    with pytest.raises(ConfigError, match=r"11\.3\.1 can drop the bias"):
        refuse_refit("tensorrt", (11, 3, 1))
    for flavour, version in (("tensorrt", (11, 2, 9)), ("tensorrt", (11, 4)), ("tensorrt_rtx", (11, 3))):
        refuse_refit(flavour, version)
    with pytest.raises(ConfigError, match="can drop the bias"):
        build_plan(Library("tensorrt", None, (11, 3, 0)), b"", EngineSettings(refit=("w",)))


def test_a_tensorrt_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.7.0"))
    with pytest.raises(ConfigError, match=r"10\.7\.0 is too old.*10\.8"):
        load_library("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    with pytest.raises(MissingDependencyError, match=r"pip install tensorrt.*driver 580.*nvidia-smi"):
        load_library("tensorrt")


def test_the_reference_door() -> None:
    model = cases.LEGAL["einsum"]
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    with open_door("cpu", model.SerializeToString()) as door:
        np.testing.assert_allclose(door.run({"x": x})["y"], x @ x.T)
        door.resident({"x": x})()
        with pytest.raises(InputError, match=r"missing \['x'\], unknown \['z'\]"):
            door.run({"z": x})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", r"CUDAExecutionProvider.*pip install onnxruntime-gpu.*driver \(580.*nvidia-smi"),
        ("tensorrt", r"TensorrtExecutionProvider.*pip install onnxruntime-gpu\[cuda,cudnn\] tensorrt.*nvidia-smi"),
        ("rtx", r"pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, onnxruntime 1.24 or newer.*nvidia-smi"),
    ],
)
def test_a_missing_door_says_what_it_takes(name: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=said):
        open_door(name, cases.LEGAL["einsum"].SerializeToString())


def test_doors_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="expected one of cpu, cuda"):
        open_door("back", b"")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give the library"):
        open_door("engine", b"")


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.tensorrt.driver._LIBRARY", "libcuda-that-is-not-here.so")
    with pytest.raises(DriverError, match=r"no NVIDIA driver.*580.*nvidia-smi"):
        Driver()


def test_errors_relative_to_the_reference() -> None:
    expected = {"a": np.array([3.0, 4.0]), "b": np.zeros(2), "c": np.ones(1)}
    found = {"a": np.array([3.0, 4.5]), "b": np.zeros(2), "c": np.array([np.nan])}
    assert relative_errors(found, expected) == {"a": pytest.approx(0.1), "b": 0.0, "c": np.inf}
    assert relative_errors({}, {"a": np.ones(2)}) == {"a": np.inf}


def test_an_engine_is_bound_to_its_bundle_and_its_plan(tmp_path: Path) -> None:
    bundle: Any = SimpleNamespace(digest="b" * 64)
    path = tmp_path / "x.engine"
    with pytest.raises(BundleError, match="not an engine with its record"):
        open_engine(path, bundle)
    path.write_bytes(b"plan")
    record = EngineRecord("a" * 64, "encoder", "g", sha256(b"plan").hexdigest(), "tensorrt 11.4", "X", (8, 7), {}, {})
    beside = tmp_path / "x.engine.json"
    beside.write_text(json.dumps(asdict(record)))
    with pytest.raises(BundleError, match="made of the bundle aaaaaaaaaaaaaaaa, this is bbbbbbbbbbbbbbbb"):
        open_engine(path, bundle)
    beside.write_text(json.dumps(asdict(replace(record, bundle=bundle.digest, plan="0" * 64))))
    with pytest.raises(BundleError, match="not the one its record names"):
        open_engine(path, bundle)
    beside.write_text("[]")
    with pytest.raises(BundleError, match="not an engine"):
        open_engine(path, bundle)


def test_feeds_for_any_graph_of_a_bundle(bundle: Bundle) -> None:
    for key in bundle.manifest.graphs:
        feeds = sample_feeds(bundle, key, 3, seed=1)
        with open_door("cpu", bundle.read(bundle.manifest.graphs[key].file)) as door:
            outputs = door.run(feeds)
        assert all(np.isfinite(value).all() for value in outputs.values())
    with pytest.raises(BundleError, match="graph 'none'"):
        sample_feeds(bundle, "none", 3)


@pytest.mark.parametrize("width", [1, 4, 5, 17, 40])
def test_wide_concats_in_steps(width: int) -> None:
    names = [f"x{i}" for i in range(width)]
    wide = cases.single("Concat", names, [(name, 1, (2,)) for name in names], axis=0).SerializeToString()
    model = onnx.load_model_from_string(wide)
    narrow_concats(model, 4)
    narrow = model.SerializeToString()
    assert max(len(node.input) for node in model.graph.node) <= 4
    feeds = {name: np.array([i, -i], np.float32) for i, name in enumerate(names)}
    with open_door("cpu", wide) as a, open_door("cpu", narrow) as b:
        np.testing.assert_array_equal(a.run(feeds)["y"], b.run(feeds)["y"])


def test_a_portable_step_s_convolutions_are_few_operators_that_tensorrt_takes() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, 2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, 2, padding=1, groups=8),
        torch.nn.Conv2d(8, 4, 3, padding=2, dilation=2, groups=2),
        torch.nn.Conv2d(4, 2, 1),
    )
    names, x = [name for name, _ in network.named_parameters()], torch.rand(3, 1, 11, 12)

    def gradient(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors[:-1]]
        with torch.enable_grad():
            out = torch.func.functional_call(network, dict(zip(names, leaves, strict=True)), (tensors[-1],))
            return torch.autograd.grad(out.square().sum(), leaves)

    given = (*(p.detach() for p in network.parameters()), x)
    model = trace_function(gradient, given, [*names, "x"], [f"d.{name}" for name in names], Lowerings("portable"))
    used = Counter(node.op_type for node in model.graph.node)
    assert (used["Conv"], used["ConvTranspose"]) == (4, 3)  # forward; the gradients of all inputs but the first
    assert used["Gather"] == 1 + 2  # one for each dense weight's gradient, one per group; depthwise ones are GEMMs
    assert check(model).legal
    feeds = dict(zip([*names, "x"], (t.numpy() for t in given), strict=True))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for found, wanted in zip(session.run(None, feeds), gradient(*given), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)
