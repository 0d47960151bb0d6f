"""The gate: graphs that agree with torch pass, graphs that were tampered with do not, and nothing is written then."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgessl.checkpoint import Checkpoint
from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ParityError
from edgessl.optim import OPTIMIZERS
from edgessl.step import METRICS
from export import STEP_TOLERANCE, Graphs, encoder_parity, export_bundle, parity, step_parity
from export.parity import METRIC_TOLERANCE, STEPS, random_fields, relative_error

BATCH = 8


def gate(case: Any, model: onnx.ModelProto, state: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    state = case.trained() if state is None else state
    return step_parity(case.step, state, case.step.hyper, model, case.spec, BATCH)


def test_faithful_graphs_pass(case: Any) -> None:
    for state in (case.step.initial_state(), case.trained()):
        figures = gate(case, case.graphs.train, state)
        assert figures["steps"] == STEPS == 5
        assert set(figures["slots"]) == set(state)
        assert max(figures["slots"].values()) <= STEP_TOLERANCE
        assert set(figures["metrics"]) == set(METRICS)
        assert max(figures["metrics"].values()) <= METRIC_TOLERANCE
        assert (
            figures["draws"][-1] <= 1 < min([*figures["draws"][:-1], 2])
        )  # in tolerances; the first that passes ends it
        error = encoder_parity(case.encoder(state["theta"]), state["theta"], case.graphs.encoder, case.spec)
        assert 0 < error < 1e-5


def matrix() -> Iterator[tuple[str, str, str, str]]:
    for encoder in ("ds_cnn_s", "resnet8", "resnet18", "cnn1d", "vit"):
        for objective in ("simclr", "vicreg", "byol", "moco"):  # the others: tests/objectives
            for optimizer in OPTIMIZERS:
                for norm in ("layer",) if encoder == "vit" else ("group", "batch"):
                    yield encoder, objective, optimizer, norm


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """A trace that grows without bound must end in MemoryError, not take the machine with it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize(("encoder", "objective", "optimizer", "norm"), list(matrix()))
def test_every_combination_passes(
    trace: Callable[..., Any], encoder: str, objective: str, optimizer: str, norm: str
) -> None:
    case = trace(encoder, objective, optimizer, norm)
    state = case.step.initial_state()
    figures = gate(case, case.graphs.train, state)
    assert figures["draws"][-1] <= 1
    encoder_parity(case.encoder(state["theta"]), state["theta"], case.graphs.encoder, case.spec)


def test_a_draw_that_fails_may_be_as_far_from_float64_as_torch_is() -> None:
    """Errors of slots and metrics, torch's own, and the worst in units of what is allowed: by hand."""
    slots, metrics = {"theta": 5e-5, "moment": 3e-4}, {"loss": 1e-4}
    name, excess = parity._worst(slots, metrics, {}, {})  # nothing known of torch: the tolerance
    assert (name, excess) == ("moment", pytest.approx(3.0))
    assert parity._worst(slots, metrics, {"moment": 5e-4}, {}) == ("moment", pytest.approx(0.6))
    assert parity._worst(slots, metrics, {"moment": 0.5}, {}) == ("theta", pytest.approx(0.5))  # at most ten tolerances
    assert parity._worst({"moment": 2e-3}, metrics, {"moment": 0.5}, {}) == ("moment", pytest.approx(2.0))
    assert np.isnan(parity._worst({"theta": 0.0, "moment": np.nan}, metrics, {}, {})[1])


# --- tampering ---------------------------------------------------------------------------------------------------


def writer(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node that makes tensor `name`."""
    return next(node for node in model.graph.node if name in node.output)


def upstream(model: onnx.ModelProto, name: str, operator: str) -> onnx.NodeProto:
    """The nearest node of kind `operator` that `name` is made of."""
    waiting = [name]
    while waiting:
        node = next((n for n in model.graph.node if waiting[0] in n.output), None)
        waiting.pop(0)
        if node is not None:
            if node.op_type == operator:
                return node
            waiting += node.input
    raise AssertionError(f"no {operator} before {name}")


def reader(model: onnx.ModelProto, name: str, *operators: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.input and node.op_type in operators)


def put(model: onnx.ModelProto, name: str, source: str) -> None:
    """Make output `name` a copy of `source`."""
    node = writer(model, name)
    node.output[list(node.output).index(name)] = f"{name}.before"
    for other in model.graph.node:
        for i, read in enumerate(other.input):
            if read == name:
                other.input[i] = f"{name}.before"
    model.graph.node.append(helper.make_node("Identity", [source], [name]))


def scale(model: onnx.ModelProto, name: str, factor: float) -> None:
    """Multiply output `name` by `factor`."""
    node = writer(model, name)
    node.output[list(node.output).index(name)] = f"{name}.before"
    for other in model.graph.node:
        for i, read in enumerate(other.input):
            if read == name:
                other.input[i] = f"{name}.before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"{name}.factor"))
    model.graph.node.append(helper.make_node("Mul", [f"{name}.before", f"{name}.factor"], [name]))


def bypass(model: onnx.ModelProto, node: onnx.NodeProto, keep: str) -> None:
    """Replace `node` by its input `keep`."""
    replacement = helper.make_node("Identity", [keep], list(node.output))
    node.CopyFrom(replacement)


def flip_the_update(model: onnx.ModelProto) -> None:
    upstream(model, "next.theta", "Sub").op_type = "Add"


def drop_adams_eps(model: onnx.ModelProto) -> None:
    node = reader(model, "hyper.eps", "Add")
    bypass(model, node, next(name for name in node.input if name != "hyper.eps"))


def freeze(slot: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: put(model, f"next.{slot}", slot)


def off_by(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    return lambda model: scale(model, name, factor)


def change_an_initializer(model: onnx.ModelProto) -> None:
    """The largest coordinate of the grid that the augmentations read from, by a tenth."""
    tensor = next(
        t
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= 2 and numpy_helper.to_array(t).any()
    )
    value = numpy_helper.to_array(tensor).copy()
    where = np.unravel_index(np.argmax(np.abs(value)), value.shape)
    value[where] *= 1.1
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def open_a_relu(model: onnx.ModelProto) -> None:
    node = [n for n in model.graph.node if n.op_type == "HardSigmoid"][-1]  # the stem's, last in a backward pass
    for attribute in node.attribute:
        attribute.f = {"alpha": 0.0, "beta": 1.0}[attribute.name]  # a mask of ones


def ignore(name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    """A hyperparameter baked into the graph."""

    def bake(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "baked"))
        found = 0
        for node in model.graph.node:
            for i, read in enumerate(node.input):
                if read == f"hyper.{name}":
                    node.input[i] = "baked"
                    found += 1
        assert found

    return bake


Tamper = Callable[[onnx.ModelProto], None]
TAMPERED: list[tuple[str, str, Tamper]] = [
    ("ds_cnn", "flip the update", flip_the_update),
    ("cnn1d", "flip the update", flip_the_update),
    ("vit", "flip the update", flip_the_update),
    ("resnet", "flip the update", flip_the_update),
    ("ds_cnn", "drop Adam's eps", drop_adams_eps),
    ("vit", "drop Adam's eps", drop_adams_eps),
    ("cnn1d", "freeze theta", freeze("theta")),
    ("cnn1d", "freeze the queue", freeze("queue")),
    ("cnn1d", "freeze the teacher", freeze("teacher")),
    ("vit", "freeze the count of updates", freeze("updates")),
    ("resnet", "freeze the momentum", freeze("momentum")),
    ("vit", "a moment off by a thousandth", off_by("next.second_moment", 1.001)),
    ("cnn1d", "change an initializer", change_an_initializer),
    ("vit", "change an initializer", change_an_initializer),
    ("cnn1d", "open a ReLU", open_a_relu),
    ("resnet", "open a ReLU", open_a_relu),
    # what a device reads, and turns: its guard lives on the metrics, and hyperparameters are inputs
    ("cnn1d", "loss off by a hundredth", off_by("loss", 1.01)),
    ("cnn1d", "grad_norm off by a hundredth", off_by("grad_norm", 1.01)),
    ("cnn1d", "embedding_std off by a hundredth", off_by("embedding_std", 1.01)),
    ("cnn1d", "effective_rank off by a hundredth", off_by("effective_rank", 1.01)),
    ("cnn1d", "bake the teacher's decay", ignore("teacher_decay", 0.99)),
    ("cnn1d", "bake the temperature", ignore("temperature", 0.2)),
    ("cnn1d", "never clip", ignore("clip_norm", 1e9)),
    ("vit", "bake the first beta", ignore("beta1", 0.9)),
    ("vit", "bake weight decay", ignore("weight_decay", 0.01)),
    ("ds_cnn", "bake the decay of statistics", ignore("statistics_decay", 0.9)),
    ("resnet", "bake the weight of the variance", ignore("variance", 25.0)),
    ("resnet", "bake the trust", ignore("trust", 1e-3)),
]


@pytest.mark.parametrize(
    ("name", "what", "tamper"),
    [
        pytest.param(*row, id=f"{row[0]}-{row[1]}", marks=pytest.mark.slow if row[0] == "resnet" else ())
        for row in TAMPERED
    ],
)
def test_the_gate_shuts(traced: Callable[[str], Any], name: str, what: str, tamper: Tamper) -> None:
    case = traced(name)
    model = case.train
    tamper(model)
    assert model != case.graphs.train
    with pytest.raises(ParityError, match="No bundle was written"):
        gate(case, model)


def test_the_encoders_gate_shuts(case: Any) -> None:
    model = copy.deepcopy(case.graphs.encoder)
    scale(model, "embedding", 1.001)
    theta = case.step.initial_state()["theta"]
    with pytest.raises(ParityError, match=r"encoder: embeddings differ from torch by 1\.00e-03"):
        encoder_parity(case.encoder(theta), theta, model, case.spec)
    # weights that are not those of theta
    with pytest.raises(ParityError, match="encoder: embeddings differ"):
        encoder_parity(case.encoder(theta), theta * 1.01 + 0.001, case.graphs.encoder, case.spec)


def test_nan_in_the_graph_shuts_the_gate(ds_cnn: Any) -> None:
    theta = ds_cnn.step.initial_state()["theta"]
    for factor in (float("nan"), float("inf")):
        model = ds_cnn.train
        scale(model, "next.theta", factor)
        with pytest.raises(ParityError, match=r"nan|inf"):
            gate(ds_cnn, model)
        encoder = copy.deepcopy(ds_cnn.graphs.encoder)
        scale(encoder, "embedding", factor)
        with pytest.raises(ParityError):
            encoder_parity(ds_cnn.encoder(theta), theta, encoder, ds_cnn.spec)


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("which", ["train", "encoder"])
def test_nothing_is_written_when_the_gate_shuts(
    checkpoint: Checkpoint, ds_cnn: Any, tmp_path: Path, which: str, there_before: bool
) -> None:
    train, encoder = ds_cnn.train, copy.deepcopy(ds_cnn.graphs.encoder)
    if which == "train":
        flip_the_update(train)
    else:
        scale(encoder, "embedding", 1.001)
    path = tmp_path / "x.edgessl"
    if there_before:
        path.write_bytes(b"an older bundle")
    with pytest.raises(ParityError):
        export_bundle(checkpoint, path, calibration=None, graphs=Graphs(train, encoder, BATCH))
    assert [p.name for p in tmp_path.iterdir()] == (["x.edgessl"] if there_before else [])
    if there_before:
        assert path.read_bytes() == b"an older bundle"


# --- the gate's own tools ----------------------------------------------------------------------------------------


def test_relative_error() -> None:
    a = np.array([3.0, 4.0], np.float32)
    assert relative_error(a, a) == 0
    assert relative_error(np.array([3.0, 4.5]), a) == pytest.approx(0.1)
    assert relative_error(0 * a, 0 * a) == 0
    assert relative_error(a, 0 * a) == float("inf")
    assert np.isnan(relative_error(a * np.nan, a))


def test_random_tokens_are_ids_of_the_vocabulary() -> None:
    spec = InputSpec("tokens", (1, 24), (0.0,), (1.0,), "u", 9)
    x = random_fields(spec, 200, 0)
    assert (x.shape, x.dtype) == ((200, 1, 24), np.float32)
    assert sorted(np.unique(x)) == list(range(9))  # every id, and nothing else
    np.testing.assert_array_equal(x, random_fields(spec, 200, 0))
    assert not np.array_equal(x, random_fields(spec, 200, 1))
    assert np.bincount(x.astype(int).ravel()).min() > 0.02 * x.size


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("image", (3, 16, 16)),
        ("signal", (2, 40)),
        ("spectrogram", (1, 20, 12)),
        ("image", (1, 2, 3)),
        ("pair", (60,)),
    ],
)
def test_random_fields_look_like_the_input(kind: str, shape: tuple[int, ...]) -> None:
    mean, std = tuple(0.3 + 0.1 * (i % 4) for i in range(shape[0])), (0.25,) * shape[0]
    spec = InputSpec(kind, shape, mean, std, "u")
    x = random_fields(spec, 400, 0)
    assert (x.shape, x.dtype) == ((400, *shape), np.float32)
    np.testing.assert_array_equal(x, random_fields(spec, 400, 0))
    assert not np.array_equal(x, random_fields(spec, 400, 1))
    if kind == "image":
        assert x.min() == 0
        assert x.max() == 1
    else:
        axes = (0, *range(2, x.ndim))
        np.testing.assert_allclose(x.mean(axes), mean, atol=0.1)
        assert (x.std(axes) > 0.15).all()
        assert (x.std(axes) < 0.6).all()
    # structure: neighbours are alike
    centred = x - x.mean(0)
    assert (centred[..., 1:] * centred[..., :-1]).mean() > 0.3 * centred.var()
