"""Traced graphs: standard operators, promised inputs and outputs, live hyperparameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.step import METRICS, hyper_tensors
from export import trace_encoder, trace_frozen_encoder, trace_step
from export.opset import lower_opset
from export.parity import random_fields
from export.trace import IR_VERSION, OPSET, merge_common_subexpressions

BATCH = 8


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def signature(values: Any) -> dict[str, tuple[int, list[int | str]]]:
    return {
        v.name: (
            v.type.tensor_type.elem_type,
            [d.dim_value if d.HasField("dim_value") else d.dim_param for d in v.type.tensor_type.shape.dim],
        )
        for v in values
    }


def check_portable(model: onnx.ModelProto) -> None:
    assert (OPSET, IR_VERSION) == (20, 10)
    assert model.ir_version <= 10
    ((domain, version),) = [(o.domain, o.version) for o in model.opset_import]
    assert domain == ""
    assert 13 <= version <= 20  # as old as the operators allow; tests/export/test_export_compatibility.py
    used = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    for word in ("Sequence", "Scatter", "Random", "Loop", "If", "Scan", "Optional", "Bernoulli", "Dropout"):
        assert not {name for name in used if word in name}, word
    assert not model.functions
    assert not model.metadata_props
    assert not model.graph.value_info
    assert all(not n.doc_string and not n.name and not n.metadata_props for n in model.graph.node)
    onnx.checker.check_model(model, full_check=True)


def test_the_step_is_of_standard_operators(case: Any) -> None:
    check_portable(case.graphs.train)
    assert case.graphs.train.ByteSize() < 1_000_000
    # no trace of the machine it was made on
    assert b"/work" not in case.graphs.train.SerializeToString()


def test_the_step_has_the_promised_inputs_and_outputs(case: Any) -> None:
    step, graph = case.step, case.graphs.train.graph
    state = step.initial_state()
    slots = {name: (1, list(value.shape)) for name, value in state.items()}
    inputs = {
        **slots,
        "batch": (1, [BATCH, *case.spec.shape]),
        "noise": (1, [BATCH, step.views.width]),
        **{f"hyper.{name}": (1, []) for name in step.hyper},
    }
    outputs = {**{f"next.{name}": value for name, value in slots.items()}, **{name: (1, []) for name in METRICS}}
    assert list(signature(graph.input).items()) == list(inputs.items())
    assert list(signature(graph.output).items()) == list(outputs.items())


def test_no_initializer_is_as_large_as_the_weights(case: Any) -> None:
    # theta is an input: weights in the graph would be factory weights that never learn
    largest = max(int(np.prod(t.dims)) for t in case.graphs.train.graph.initializer)
    assert largest < case.step.layout.size / 4


def test_every_hyperparameter_and_every_slot_is_live_in_the_graph(case: Any) -> None:
    session = session_of(case.graphs.train)
    names = [o.name for o in session.get_outputs()]
    state, noise = case.trained(), torch.rand(case.step.noise_shape(BATCH), generator=torch.Generator().manual_seed(1))
    feeds = {
        **{name: value.numpy() for name, value in state.items()},
        "batch": random_fields(case.spec, BATCH, 0),
        "noise": noise.numpy(),
        **{f"hyper.{name}": value.numpy() for name, value in hyper_tensors(case.step.hyper).items()},
    }

    def run(**changed: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {**feeds, **changed}), strict=True))

    base = run()
    for name in feeds:
        value = {"hyper.clip_norm": 1e-3, "hyper.eps": 1e-2}.get(name, 0.7 * feeds[name])
        changed = run(**{name: np.asarray(value, np.float32)})
        assert any((changed[output] != base[output]).any() for output in names), name


def test_the_graph_follows_torch_when_hyperparameters_turn(case: Any) -> None:
    session = session_of(case.graphs.train)
    names = [o.name for o in session.get_outputs()]
    state = case.trained()
    batch = random_fields(case.spec, BATCH, 3)
    noise = torch.rand(case.step.noise_shape(BATCH), generator=torch.Generator().manual_seed(3))
    changes: list[dict[str, float]] = [{name: value * 0.5 + 0.01} for name, value in case.step.hyper.items()]
    for change in [*changes, {"clip_norm": 0.01}]:
        hyper = hyper_tensors({**case.step.hyper, **change})
        expected, metrics = case.step(state, torch.from_numpy(batch), noise, hyper)
        feeds = {name: value.numpy() for name, value in state.items()}
        feeds |= {"batch": batch, "noise": noise.numpy()}
        feeds |= {f"hyper.{name}": value.numpy() for name, value in hyper.items()}
        found = dict(zip(names, session.run(None, feeds), strict=True))
        for name, value in metrics.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=f"{name} with {change}")
        for name, value in expected.items():
            # against how far the slot moved: theta's own length would hide a wrong update
            moved = float((value - state[name]).norm())
            error = float(np.linalg.norm(found[f"next.{name}"] - value.numpy()))
            assert error <= 2e-3 * moved + 2e-6 * float(value.norm()), (name, change, error, moved)


def test_the_encoder_graph_takes_any_batch_and_any_theta(case: Any) -> None:
    model = case.graphs.encoder
    check_portable(model)
    assert signature(model.graph.input) == {
        "theta": (1, [case.step.layout.size]),
        "x": (1, [model.graph.input[1].type.tensor_type.shape.dim[0].dim_param, *case.spec.shape]),
    }
    assert model.graph.input[1].type.tensor_type.shape.dim[0].dim_param
    session = session_of(model)
    for seed, n in ((1, 1), (2, 7)):
        theta = case.trained(seed)["theta"]
        x = random_fields(case.spec, n, seed)
        with torch.no_grad():
            wanted = case.encoder(theta)(torch.from_numpy(x)).numpy()
        (found,) = session.run(["embedding"], {"theta": theta.numpy(), "x": x})
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_the_frozen_encoder_holds_its_weights(ds_cnn: Any) -> None:
    encoder = ds_cnn.encoder(ds_cnn.trained()["theta"])
    model = trace_frozen_encoder(encoder)
    check_portable(model)
    assert [v.name for v in model.graph.input] == ["x"]
    x = random_fields(ds_cnn.spec, 5, 0)
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session_of(model).run(None, {"x": x})[0], wanted, rtol=1e-3, atol=1e-5)


def test_tracing_an_encoder_is_deterministic_and_leaves_it_as_it_was(ds_cnn: Any) -> None:
    encoder, layout = copy.deepcopy(ds_cnn.step.parts.encoder), ds_cnn.step.layout
    assert encoder.training
    again = lower_opset(trace_encoder(encoder, layout))
    assert encoder.training  # it may be a training step's own, whose batch norms work otherwise in evaluation mode
    assert again.SerializeToString(deterministic=True) == ds_cnn.graphs.encoder.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_tracing_a_step_is_deterministic(case: Any) -> None:
    again = lower_opset(trace_step(case.step, (BATCH, *case.spec.shape)))
    assert again.SerializeToString(deterministic=True) == case.graphs.train.SerializeToString(deterministic=True)


def test_common_subexpressions_merge_and_different_ones_do_not() -> None:
    def function(x: Tensor) -> Tensor:
        a, b = (x * 2.0).sum(), (x * 2.0).sum()
        return a + b + (x * 2).sum() + (x * -2.0).sum() + torch.rand(3).sum() + torch.rand(3).sum()

    x = torch.arange(3.0)
    graph = make_fx(function)(x)
    before = len(graph.graph.nodes)
    merge_common_subexpressions(graph)
    assert len(graph.graph.nodes) == before - 2  # one product and its sum; 2 is not 2.0, and random draws are two
    torch.manual_seed(0)
    wanted = function(x)
    torch.manual_seed(0)
    assert torch.equal(graph(x), wanted)
