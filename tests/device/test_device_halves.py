"""A step cut into halves that run at once: the same values as the whole graph, in one piece only where it is sound."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgessl.device.halves import HalvesSession, cut, made_again
from edgessl.device.runtime import SessionProfile
from edgessl.errors import BundleError

ROWS, WIDTH = 6, 4


def model(names: dict[str, str] | None = None, typed: bool = True) -> bytes:
    """loss = sum(h), next.w = w - sum over both halves of x_half * mean(h), for h = relu(x w) of each half."""
    parts = {"lower": "1a", "upper": "1b", "h0": "1a 3a", "h1": "1b 3b"} | {
        **{"all": "2", "loss": "2", "g0": "3a", "g1": "3b", "m0": "3a", "m1": "3b", "t0": "3a", "t1": "3b"},
        **{"both": "4", "next.w": "4", "z0": "1a", "z1": "1b"},
    }
    parts |= names or {}
    nodes = [
        helper.make_node("Slice", ["x", "from0", "middle", "axis"], ["lower"]),
        helper.make_node("Slice", ["x", "middle", "end", "axis"], ["upper"]),
        helper.make_node("Mul", ["lower", "w"], ["z0"]),
        helper.make_node("Mul", ["upper", "w"], ["z1"]),
        helper.make_node("Relu", ["z0"], ["h0"]),
        helper.make_node("Relu", ["z1"], ["h1"]),
        helper.make_node("Concat", ["h0", "h1"], ["all"], axis=0),
        helper.make_node("ReduceSum", ["all"], ["loss"], keepdims=0),
        helper.make_node("Mul", ["h0", "loss"], ["g0"]),
        helper.make_node("Mul", ["h1", "loss"], ["g1"]),
        helper.make_node("Add", ["g0", "lower"], ["m0"]),
        helper.make_node("Add", ["g1", "upper"], ["m1"]),
        helper.make_node("ReduceSum", ["m0", "axis"], ["t0"], keepdims=0),
        helper.make_node("ReduceSum", ["m1", "axis"], ["t1"], keepdims=0),
        helper.make_node("Add", ["t0", "t1"], ["both"]),
        helper.make_node("Sub", ["w", "both"], ["next.w"]),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{parts[node.output[0]]}/{i}"
    value = helper.make_tensor_value_info
    constants = {"from0": 0, "middle": ROWS // 2, "end": ROWS, "axis": 0}
    half = [ROWS // 2, WIDTH]
    crossing = {**dict.fromkeys(("lower", "upper", "h0", "h1", "z0", "z1"), half), "t0": [WIDTH], "t1": [WIDTH]}
    graph = helper.make_graph(
        nodes,
        "step",
        [value("x", TensorProto.FLOAT, [ROWS, WIDTH]), value("w", TensorProto.FLOAT, [WIDTH]),
         value("unread", TensorProto.FLOAT, [])],
        [value("next.w", TensorProto.FLOAT, [WIDTH]), value("loss", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([number], np.int64), name) for name, number in constants.items()],
        value_info=[value(name, TensorProto.FLOAT, shape) for name, shape in crossing.items()] if typed else [],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def feeds(seed: int = 0) -> dict[str, ort.OrtValue]:
    rng = np.random.default_rng(seed)
    arrays = {"x": rng.normal(size=(ROWS, WIDTH)), "w": rng.normal(size=WIDTH), "unread": np.array(1.0)}
    return {name: ort.OrtValue.ortvalue_from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


@pytest.mark.parametrize("profile", [SessionProfile(threads=2), SessionProfile(), SessionProfile(arena=False)])
def test_the_halves_give_what_the_whole_graph_gives(profile: SessionProfile) -> None:
    halves = profile.step_session(model(), "step")
    whole = SessionProfile(threads=2).session(model(), "step")
    assert isinstance(halves, HalvesSession)
    assert isinstance(whole, ort.InferenceSession)
    for session in (halves, whole):
        assert {node.name: node.shape for node in session.get_inputs()} == {
            "x": [ROWS, WIDTH],
            "w": [WIDTH],
            "unread": [],
        }
        assert {node.name for node in session.get_outputs()} == {"next.w", "loss"}
    for seed in range(3):
        given = feeds(seed)
        x, w = given["x"].numpy(), given["w"].numpy()
        h = np.maximum(x * w, 0)
        loss, next_w = halves.run_with_ort_values(["loss", "next.w"], given)
        np.testing.assert_allclose(loss.numpy(), h.sum(), rtol=1e-5)
        np.testing.assert_allclose(next_w.numpy(), w - (h * h.sum() + x).sum(0), rtol=1e-4)
        for _ in range(3):
            again = halves.run_with_ort_values(["loss", "next.w"], given)
            assert [value.numpy().tobytes() for value in again] == [loss.numpy().tobytes(), next_w.numpy().tobytes()]


def test_parts_hold_their_own_nodes_and_what_they_make_again() -> None:
    parts, outputs = cut(model())
    assert outputs == ["next.w", "loss"]
    assert [(part.name, part.stage) for part in parts] == [
        ("1a", 1), ("1b", 1), ("2", 2), ("3a", 3), ("3b", 3), ("4", 4)
    ]  # fmt: skip
    made = {part.name: [node.output[0] for node in onnx.load_from_string(part.model).graph.node] for part in parts}
    assert made["1a"] == ["lower", "z0", "h0"]
    assert made["3a"] == ["h0", "g0", "m0", "t0"]
    assert {part.name: part.gives for part in parts}["1a"] == ["lower", "z0", "h0"]
    for part in parts:
        onnx.checker.check_model(onnx.load_from_string(part.model))


def test_halves_at_once_and_in_turn_give_the_same_bytes() -> None:
    profiles = [SessionProfile(threads=2, halves=halves) for halves in (True, False)]
    at_once, in_turn = (profile.step_session(model(), "step") for profile in profiles)
    for seed in range(3):
        found = [s.run_with_ort_values(["loss", "next.w"], feeds(seed)) for s in (at_once, in_turn)]
        assert [v.numpy().tobytes() for v in found[0]] == [v.numpy().tobytes() for v in found[1]]


def test_a_graph_without_halves_and_one_that_makes_an_error_function_again_stay_whole() -> None:
    assert made_again(model()) == {"Relu"}
    assert isinstance(SessionProfile().step_session(model(), "step"), HalvesSession)
    plain, costly = onnx.load_from_string(model()), onnx.load_from_string(model())
    for node in plain.graph.node:
        node.name = ""
    for node in costly.graph.node:
        node.op_type = "Erf" if node.op_type == "Relu" else node.op_type
    assert made_again(plain.SerializeToString()) is None
    assert isinstance(SessionProfile(threads=2).step_session(plain.SerializeToString(), "step"), ort.InferenceSession)
    step = costly.SerializeToString()
    assert isinstance(SessionProfile(threads=2).step_session(step, "step"), HalvesSession)
    assert isinstance(SessionProfile(threads=2, halves=False).step_session(step, "step"), ort.InferenceSession)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"t1": "1b"}, "part 1b reads 'm1' before"),
        ({"all": "1a"}, "part 1a reads 'h1' before"),
        ({"g0": "first"}, "'first' names no part"),
        ({"loss": "9999"}, "'9999' names no part"),
    ],
)
def test_names_that_make_no_step_are_refused(names: dict[str, str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        cut(model(names))


def test_what_crosses_needs_a_type() -> None:
    with pytest.raises(BundleError, match="'lower' crosses its parts without a type"):
        cut(model(typed=False))


def test_an_error_in_one_half_reaches_the_caller() -> None:
    session = SessionProfile(threads=2).step_session(model(), "step")
    given = feeds() | {"x": ort.OrtValue.ortvalue_from_numpy(np.zeros((ROWS, WIDTH + 1), np.float32))}
    with pytest.raises(Exception, match=r"(?i)invalid|dimension"):
        session.run_with_ort_values(["loss"], given)
    assert len(session.run_with_ort_values(["loss"], feeds())) == 1
