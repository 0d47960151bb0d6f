"""A traced step names its halves, and run at once they give what the whole graph gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgessl.device.halves import HalvesSession, cut
from edgessl.device.runtime import SessionProfile
from edgessl.encoders import build_encoder
from edgessl.objectives import build_objective
from edgessl.objectives.network import piece_starts
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep
from edgessl.views import default_views
from export import pieces
from export.branches import name_halves
from export.trace import BATCH_INPUTS, trace_step

SHAPE, BATCH = (4, 64), 8


@given(rows=st.integers(2, 200), most=st.integers(1, 100))
def test_pieces_share_each_half_evenly(rows: int, most: int) -> None:
    starts = [*piece_starts(rows, most), rows]
    sizes = np.diff(starts)
    middle = rows - rows // 2
    assert starts[0] == 0
    assert middle in starts
    assert 1 <= sizes.min() <= sizes.max() <= most
    for half, long in ((sizes[: starts.index(middle)], middle), (sizes[starts.index(middle) :], rows // 2)):
        assert half.sum() == long
        assert len(half) == -(-long // max(half))  # in as few pieces of that size as there can be


@pytest.fixture(scope="module")
def train() -> onnx.ModelProto:
    step = TrainStep(
        build_encoder("cnn1d", SHAPE),
        build_objective("vicreg"),
        build_optimizer("sgd"),
        default_views("signal", SHAPE),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "SIGNALS_HALVED_FROM", 1)
        return trace_step(step, (BATCH, *SHAPE))


def feeds(model: onnx.ModelProto, seed: int) -> dict[str, ort.OrtValue]:
    rng = np.random.default_rng(seed)
    values = {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.uniform(0.01, 0.1, shape) if value.name.startswith("hyper.") else rng.uniform(0, 1, shape) * 0.3
        values[value.name] = ort.OrtValue.ortvalue_from_numpy(array.astype(np.float32))
    return values


@pytest.mark.slow
def test_halves_run_at_once_give_the_whole_graphs_values(train: onnx.ModelProto) -> None:
    data = train.SerializeToString()
    halves = SessionProfile(threads=2).step_session(data, "step")
    whole = SessionProfile(threads=1).session(data, "step")
    assert isinstance(halves, HalvesSession)
    names = [output.name for output in train.graph.output]
    assert sorted(node.name for node in halves.get_outputs()) == sorted(names)
    assert [node.name for node in halves.get_inputs()] == [value.name for value in train.graph.input]
    for seed in range(3):
        given = feeds(train, seed)
        found = [value.numpy() for value in halves.run_with_ort_values(names, given)]
        again = [value.numpy() for value in halves.run_with_ort_values(names, given)]
        for name, value, repeated, wanted in zip(
            names, found, again, whole.run_with_ort_values(names, given), strict=True
        ):
            assert value.tobytes() == repeated.tobytes(), name
            np.testing.assert_allclose(value, wanted.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_most_of_the_step_is_in_its_halves_and_nothing_in_both(train: onnx.ModelProto) -> None:
    parts = {part.name: onnx.load_from_string(part.model) for part in cut(train.SerializeToString())[0]}
    assert list(parts) == ["0", "1a", "1b", "2", "3a", "3b", "4"]
    count = {
        name: sum(node.op_type in ("Conv", "ConvTranspose", "MatMul") for node in part.graph.node)
        for name, part in parts.items()
    }
    assert count["1a"] == count["1b"] == 4  # the encoder's convolutions
    assert count["3a"] == count["3b"] > 4  # their gradients
    gradients = {name: [o.name for o in parts[name].graph.output] for name in ("3a", "3b")}
    assert not set(gradients["3a"]) & set(gradients["3b"])
    for part in parts.values():
        onnx.checker.check_model(part)


@pytest.mark.slow
def test_cheap_activations_are_made_again_not_kept(train: onnx.ModelProto) -> None:
    twice = {node.op_type for node in train.graph.node if node.name.split("/")[0] == "1a 3a"}
    assert {"BatchNormalization", "Relu"} <= twice
    assert not twice & {"Conv", "MatMul", "LayerNormalization"}


def test_a_graph_of_two_halves_gets_their_names() -> None:
    step = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        step (float[6,4] batch, float[4,4] w) => (float loss, float[4,4] next)
        <int64[1] zero = {0}, int64[1] middle = {3}, int64[1] end = {6}> {
            wt = Transpose(w)
            lower = Slice(batch, zero, middle, zero)    upper = Slice(batch, middle, end, zero)
            z0 = MatMul(lower, wt)                      z1 = MatMul(upper, wt)
            h0 = Relu(z0)                               h1 = Relu(z1)
            k0 = Mul(h0, z0)                            k1 = Mul(h1, z1)
            all = Concat<axis = 0>(k0, k1)
            loss = ReduceSum<keepdims = 0>(all)
            g0 = Mul(k0, loss)                          g1 = Mul(k1, loss)
            f0 = Sub(g0, h0)                            f1 = Sub(g1, h1)
            t0 = Transpose(f0)                          t1 = Transpose(f1)
            d0 = MatMul(t0, lower)                      d1 = MatMul(t1, upper)
            d = Add(d0, d1)
            next = Sub(w, d)
        }"""
    )
    plain = step.SerializeToString()
    assert name_halves(step, BATCH_INPUTS)
    names = {node.output[0]: node.name.split("/")[0] for node in step.graph.node}
    assert names == {
        "wt": "0", "lower": "1a", "upper": "1b", "z0": "1a", "z1": "1b", "h0": "1a 3a", "h1": "1b 3b", "k0": "1a 3a",
        "k1": "1b 3b", "all": "2", "loss": "2", "g0": "3a", "g1": "3b", "f0": "3a", "f1": "3b", "t0": "3a", "t1": "3b",
        "d0": "3a", "d1": "3b", "d": "4", "next": "4",
    }  # fmt: skip
    assert len({node.name for node in step.graph.node}) == len(step.graph.node)
    typed = {value.name for value in step.graph.value_info}
    assert {"wt", "z0", "z1", "lower", "upper", "d0", "d1"} <= typed
    halves = SessionProfile(threads=2).step_session(step.SerializeToString(), "step")
    assert isinstance(halves, HalvesSession)
    whole = SessionProfile().session(plain, "step")
    given = feeds(step, 0)
    for found, wanted in zip(*(s.run_with_ort_values(["loss", "next"], given) for s in (halves, whole)), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5)


def test_a_graph_that_does_not_fall_into_halves_keeps_its_nodes_unnamed() -> None:
    w, x = torch.randn(3, 3), onnx.helper.make_tensor_value_info("batch", onnx.TensorProto.FLOAT, [4, 3])
    nodes = [onnx.helper.make_node("MatMul", ["batch", "w"], ["y"])]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 3])
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(w.numpy(), "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    before = model.SerializeToString()
    assert not name_halves(model, BATCH_INPUTS)
    assert model.SerializeToString() == before
