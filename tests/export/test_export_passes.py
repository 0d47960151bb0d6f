"""Each clean-up pass on a small graph: it does what it says, and the results in onnxruntime stay the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgessl.errors import ExportError
from export import passes, rewrites


def model(body: str, **initializers: np.ndarray) -> onnx.ModelProto:
    """`(inputs) => (outputs) { nodes }` in ONNX's text form; initializers may stand in for anything unnamed."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> test {body}')
    for name, value in initializers.items():
        parsed.graph.initializer.append(numpy_helper.from_array(value, name))
    return parsed


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def unchanged(proto: onnx.ModelProto, apply: Callable[[onnx.ModelProto], object], **feeds: np.ndarray) -> object:
    """Apply a pass; the results must stay the same, bit for bit."""
    before = run(proto, **feeds)
    result = apply(proto)
    for found, wanted in zip(run(proto, **feeds), before, strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
    return result


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(3, 4)


def test_constants_become_initializers() -> None:
    proto = model(
        """(float[3,4] x) => (float[3,4] y, int64[2] z) {
            a = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
            b = Constant <value_float = 0.5> ()
            c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
            i = Constant <value_int = 7> ()
            z1 = Constant <value_ints = [1, 2]> ()
            xa = Add (x, a)
            xb = Mul (xa, b)
            y = Sub (xb, c)
            z = Add (z1, i)
        }"""
    )
    unchanged(proto, lambda m: passes.constants_to_initializers(m.graph), x=X)
    assert operators(proto) == ["Add", "Mul", "Sub", "Add"]


def test_folding_evaluates_what_is_constant_and_nothing_else() -> None:
    proto = model(
        """(float[3,4] x) => (float[3,4] y, float[4] kept) {
            b = Mul (a, a)
            c = Reshape (b, s)
            d = Transpose <perm = [1, 0]> (c)
            f = Reshape (d, flat)
            kept = Neg (f)
            y = Add (x, f)
        }""",
        a=draw(4), s=np.array([2, 2]), flat=np.array([4]),
    )  # fmt: skip
    assert unchanged(proto, lambda m: passes.fold_constants(m.graph), x=X) == 4
    assert operators(proto) == ["Neg", "Add"]  # an output of the graph stays a node's


def test_folding_leaves_fills_and_large_results_alone() -> None:
    proto = model(
        """() => (float[N] y, float[M] z) {
            a = ConstantOfShape <value = float[1] {2.0}> (small)
            y = Neg (a)
            b = Tile (one, many)
            z = Neg (b)
        }""",
        small=np.array([4]), one=np.ones(1, np.float32), many=np.array([1 << 19]),
    )  # fmt: skip
    unchanged(proto, lambda m: passes.fold_constants(m.graph))
    assert operators(proto) == ["ConstantOfShape", "Neg", "Tile", "Neg"]
    assert sum(t.ByteSize() for t in proto.graph.initializer) < 1000


def test_folding_a_node_with_one_large_result_of_two() -> None:
    proto = model(
        """() => (float[N] y, float[M] z) {
            a, b = Split <axis = 0> (long, sizes)
            y = Neg (a)
            z = Neg (b)
        }""",
        long=np.ones(1 + (1 << 19), np.float32), sizes=np.array([1, 1 << 19]),
    )  # fmt: skip
    unchanged(proto, lambda m: passes.fold_constants(m.graph))


@pytest.mark.parametrize("operator", ["RandomUniform", "RandomNormal"])
def test_folding_does_not_freeze_randomness(operator: str) -> None:
    proto = model(f"(float[3,4] x) => (float[3,4] y) {{ u = {operator} <shape = [3, 4]> () y = Add (x, u) }}")
    passes.fold_constants(proto.graph)
    assert operators(proto) == [operator, "Add"]


def test_no_ops_go() -> None:
    proto = model(
        """(float[3,4] x) => (float[3,4] y, float[3,4] z) {
            a = Identity (x)
            b = Cast <to = 1> (a)
            c = Reshape (b, same)
            d = Expand (c, same)
            e = CastLike (d, x)
            y = Neg (e)
            z = Identity (e)
        }""",
        same=np.array([3, 4]),
    )
    while passes.drop_no_ops(proto):
        pass
    assert operators(proto) == ["Neg", "Identity"]
    assert proto.graph.node[0].input == proto.graph.node[1].input == ["x"]
    y, z = run(proto, x=X)
    np.testing.assert_array_equal(y, -X)
    np.testing.assert_array_equal(z, X)


def test_what_changes_something_stays() -> None:
    proto = model(
        """(float[3,4] x, float[N,4] n) => (float[4,3] a, double[3,4] b, float[3,3,4] c, float[M,4] d, bool[3,4] f) {
            a1 = Reshape (x, turned)
            a = Neg (a1)
            b1 = Cast <to = 11> (x)
            b = Neg (b1)
            c1 = Expand (x, more)
            c = Neg (c1)
            d1 = Expand (n, three)
            d = Neg (d1)
            f1 = Cast <to = 9> (x)
            f = Not (f1)
        }""",
        turned=np.array([4, 3]), more=np.array([3, 3, 4]), three=np.array([3, 4]),
    )  # fmt: skip
    before = operators(proto)
    assert unchanged(proto, passes.drop_no_ops, x=X, n=X[:1]) == 0
    assert operators(proto) == before


def test_a_reshape_of_an_unknown_batch_is_a_no_op_only_if_it_keeps_the_shape() -> None:
    proto = model(
        """(float[N,4] x) => (float[A,4] y, float[B] z) {
            a = Reshape (x, rows)
            y = Neg (a)
            b = Reshape (x, flat)
            z = Neg (b)
        }""",
        rows=np.array([-1, 4]), flat=np.array([-1]),
    )  # fmt: skip
    unchanged(proto, passes.drop_no_ops, x=X)
    for n in (1, 5):
        y, z = run(proto, x=draw(n, 4))
        assert (y.shape, z.shape) == ((n, 4), (4 * n,))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", [2, 3, 4, 5]),
        ("<start = 1>", [3, 4, 5]),
        ("<end = 2>", [2, 3]),
        ("<start = 1, end = 3>", [3, 4]),
        ("<start = -2>", [4, 5]),
        ("<end = -1>", [2, 3, 4]),
        ("<start = -3, end = -1>", [3, 4]),
        ("<start = -9, end = 9>", [2, 3, 4, 5]),
        ("<start = 3, end = 1>", []),
    ],
)
def test_shape_of_a_known_shape_is_a_constant(attributes: str, expected: list[int]) -> None:
    proto = model(f"(float[2,3,4,5] x) => (int64[K] y) {{ s = Shape {attributes} (x) y = Neg (s) }}")
    assert unchanged(proto, passes.drop_no_ops, x=draw(2, 3, 4, 5)) == 1
    assert operators(proto) == ["Neg"]
    np.testing.assert_array_equal(-run(proto, x=draw(2, 3, 4, 5))[0], expected)


def test_shape_of_an_unknown_shape_stays() -> None:
    proto = model("(float[N,3] x) => (int64[2] y) { s = Shape (x) y = Neg (s) }")
    assert unchanged(proto, passes.drop_no_ops, x=draw(5, 3)) == 0
    assert operators(proto) == ["Shape", "Neg"]


def test_duplicates_merge() -> None:
    proto = model(
        """(float[3,4] x) => (float[3,4] y, float[3,4] z) {
            a = Mul (x, p)
            b = Mul (x, q)
            c = Softmax <axis = 1> (a)
            d = Softmax <axis = 1> (b)
            e = Softmax <axis = 0> (b)
            f = Add (c, d)
            y = Add (f, e)
            z = Softmax <axis = 1> (a)
        }""",
        p=draw(4), q=draw(4),
    )  # fmt: skip
    unchanged(proto, lambda m: passes.merge_duplicates(m.graph), x=X)
    # one Mul, one Softmax along axis 1 and its twin that is an output of the graph, one along axis 0
    assert sorted(operators(proto)) == ["Add", "Add", "Mul", "Softmax", "Softmax", "Softmax"]
    assert len(proto.graph.initializer) == 1


def test_what_only_looks_equal_does_not_merge() -> None:
    proto = model(
        """(float[3,4] x) => (float[3,4] a, float[3,4] b, float[3,4] c, float[4,3] d, float[4,3] e) {
            a1 = Div (x, plus)
            b1 = Div (x, minus)
            c1 = Div (plus, x)
            d1 = Reshape (x, s)
            e1 = Transpose <perm = [1, 0]> (x)
            a = Neg (a1)
            b = Neg (b1)
            c = Neg (c1)
            d = Neg (d1)
            e = Neg (e1)
        }""",
        plus=np.zeros((3, 4), np.float32), minus=-np.zeros((3, 4), np.float32), s=np.array([4, 3]),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        unchanged(proto, lambda m: passes.merge_duplicates(m.graph), x=X)
    assert len(proto.graph.node) == 10


GRADIENT = """(float[N] x, float[N] g) => (float[N] y, int64[1] other) {
    closed = LessOrEqual (x, zero)
    y = Where (closed, zero, g)
    other = Shape (x)
}"""
usual = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(usual, usual), min_size=1, max_size=20))
def test_the_relu_gradient_is_exact(pairs: list[tuple[float, float]]) -> None:
    x, g = np.array(pairs, np.float32).T
    x[(np.abs(x) < 3e-39) & (x > 0)] = 0  # the documented limit
    proto = model(GRADIENT, zero=np.zeros((), np.float32))
    wanted = run(proto, x=x, g=g)[0]
    assert passes.relu_gradient(proto.graph) == 1
    assert operators(proto)[-2:] != ["LessOrEqual", "Where"]
    assert "Where" not in operators(proto)
    np.testing.assert_array_equal(run(proto, x=x, g=g)[0], wanted)  # -0 for 0 is all that may differ


def test_the_relu_gradient_at_the_edges() -> None:
    x = np.array([0.0, -0.0, 4e-39, 1e-38, -1e-38, 1e-30, np.inf, -np.inf, 3e38, -3e38], np.float32)
    proto = model(GRADIENT, zero=np.zeros((), np.float32))
    passes.relu_gradient(proto.graph)
    found = run(proto, x=x, g=np.full_like(x, 5.0))[0]
    np.testing.assert_array_equal(found, np.where(x > 0, 5.0, 0.0))


@pytest.mark.parametrize(
    "body",
    [
        "c = LessOrEqual (x, one) y = Where (c, zero, g)",  # another threshold
        "c = LessOrEqual (x, zero) y = Where (c, one, g)",  # another value
        "c = Less (x, zero) y = Where (c, zero, g)",  # open at zero
        "c = LessOrEqual (x, zero) y = Where (c, g, zero)",  # the other way round
        "c = GreaterOrEqual (x, zero) y = Where (c, zero, g)",
    ],
)
def test_what_is_no_relu_gradient_stays(body: str) -> None:
    proto = model(
        f"(float[4] x, float[4] g) => (float[4] y) {{ {body} }}",
        zero=np.zeros((), np.float32), one=np.ones((), np.float32),
    )  # fmt: skip
    x = np.array([-1, 0, 0.5, 2], np.float32)
    assert unchanged(proto, lambda m: passes.relu_gradient(m.graph), x=x, g=draw(4)) == 0


def test_zero_biases_go() -> None:
    proto = model(
        """(float[1,2,5,5] x) => (float[1,3,3,3] a, float[1,3,3,3] b, float[1,2,7,7] c) {
            a = Conv (x, w, zero)
            b = Conv (x, w, some)
            c = ConvTranspose (b1, w, two)
            b1 = Conv <pads = [1, 1, 1, 1]> (x, w, zero)
        }""",
        w=draw(3, 2, 3, 3), zero=np.zeros(3, np.float32), some=draw(3), two=np.zeros(2, np.float32),
    )  # fmt: skip
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([nodes[0], nodes[1], nodes[3], nodes[2]])
    unchanged(proto, lambda m: passes.drop_zero_bias(m.graph), x=draw(1, 2, 5, 5))
    assert [len(node.input) for node in proto.graph.node] == [2, 3, 2, 2]


def test_dead_code_goes() -> None:
    proto = model(
        """(float[3,4] x, float[3,4] unread) => (float[3,4] y) {
            a = Add (x, used)
            b = Mul (x, unused)
            c = Neg (b)
            values, places = TopK (a, k)
            y = Neg (a)
        }""",
        used=draw(4), unused=draw(4, seed=1), k=np.array([1]),
    )  # fmt: skip
    unchanged(proto, lambda m: passes.drop_dead(m.graph), x=X, unread=X)
    assert operators(proto) == ["Add", "Neg"]
    assert [t.name for t in proto.graph.initializer] == ["used"]
    assert [i.name for i in proto.graph.input] == ["x", "unread"]


def test_a_node_with_one_living_result_lives() -> None:
    proto = model("(float[3,4] x) => (int64[3,1] y) { values, places = TopK (x, k) y = Neg (places) }", k=np.array([1]))
    unchanged(proto, lambda m: passes.drop_dead(m.graph), x=X)
    assert operators(proto) == ["TopK", "Neg"]


def test_uniform_constants_shrink() -> None:
    mixed = np.zeros(64, np.float32)
    mixed[3] = 1e-45
    proto = model(
        """(float[1] x) => (float[8,8] a, float[64] b, float[63] c, int64[64] d) {
            a = Add (x, half)
            b = Add (x, mixed)
            c = Add (x, short)
            d = Neg (whole)
        }""",
        half=np.full((8, 8), 0.5, np.float32), mixed=mixed, short=np.zeros(63, np.float32), whole=np.ones(64, np.int64),
    )  # fmt: skip
    unchanged(proto, lambda m: passes.uniform_constants(m.graph), x=draw(1))
    assert operators(proto).count("ConstantOfShape") == 1
    assert {t.name for t in proto.graph.initializer} == {"half.shape", "mixed", "short", "whole"}


def test_signed_zeros_are_not_uniform() -> None:
    zeros = np.zeros(64, np.float32)
    zeros[7] = -0.0
    proto = model("(float[1] x) => (float[64] y) { y = Div (x, zeros) }", zeros=zeros)
    unchanged(proto, lambda m: passes.uniform_constants(m.graph), x=np.ones(1, np.float32))


def test_inputs_come_in_the_promised_order_unused_ones_too() -> None:
    proto = model("(float[3,4] b, float[3,4] a, float unread) => (float[3,4] y) { y = Sub (a, b) }")
    passes.restore_unused_inputs(proto.graph, ["a", "unread", "b"])
    assert [i.name for i in proto.graph.input] == ["a", "unread", "b"]
    np.testing.assert_array_equal(run(proto, a=X, b=2 * X, unread=np.ones((), np.float32))[0], -X)
    with pytest.raises(ExportError, match=r"lost its inputs \['c'\]"):
        passes.restore_unused_inputs(proto.graph, ["a", "b", "c"])


def test_strip_leaves_the_results() -> None:
    proto = model("(float[3,4] x) => (float[3,4] y) { a = Neg (x) y = Neg (a) }")
    proto.doc_string = proto.graph.node[0].doc_string = "/home/somebody/secret.py"
    proto.graph.node[0].name = "node_1"
    helper.set_model_props(proto, {"who": "somebody"})
    proto.graph.value_info.append(helper.make_tensor_value_info("a", 1, [3, 4]))
    proto.opset_import.append(helper.make_opsetid("pkg.somewhere", 1))
    unchanged(proto, passes.strip, x=X)
    assert b"somebody" not in proto.SerializeToString()
    assert [o.domain for o in proto.opset_import] == [""]
    assert proto.producer_name == "edgessl"


MESSY = """(float[2,3,6,6] x, float[2,4,4,4] g, float lr) => (float[2,4,4,4] y, float[2,4,4,4] z) {
    none = Constant <value = float[4] {0.0, 0.0, 0.0, 0.0}> ()
    null = Constant <value_float = 0.0> ()
    two = Constant <value_float = 2.0> ()
    four = Mul (two, two)
    x1 = Identity (x)
    shape = Shape (x1)
    x2 = Reshape (x1, shape)
    c = Conv (x2, w, none)
    d = Conv (x, w, none)
    closed = LessOrEqual (d, null)
    y1 = Where (closed, null, g)
    y = Mul (y1, four)
    lost = Mul (y, lr)
    z = Add (c, d)
}"""


def test_all_passes_together() -> None:
    feeds = {"x": draw(2, 3, 6, 6), "g": draw(2, 4, 4, 4, seed=1), "lr": np.array(0.1, np.float32)}
    proto = model(MESSY, w=draw(4, 3, 3, 3, seed=2))
    before = run(proto, **feeds)
    cleaned = passes.clean(proto, ["x", "g", "lr"], ["y", "z"], 10, {})
    assert operators(cleaned) == ["Conv", "HardSigmoid", "Mul", "Mul", "Add"]
    assert [len(n.input) for n in cleaned.graph.node if n.op_type == "Conv"] == [2]
    assert cleaned.ir_version == 10
    for found, wanted in zip(run(cleaned, **feeds), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_clean_refuses_what_is_not_portable() -> None:
    def fresh() -> onnx.ModelProto:
        return model("(float[3,4] x) => (float[3,4] y) { y = Add (x, b) }", b=draw(4))

    with pytest.raises(ExportError, match=r"outputs \['y'\]; expected \['z'\]"):
        passes.clean(fresh(), ["x"], ["z"], 10, {})
    foreign = fresh()
    foreign.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    foreign.graph.node[0].domain, foreign.graph.node[0].op_type = "com.microsoft", "BiasAdd"
    said = r"com\.microsoft\.BiasAdd, at model\.py:3, in forward: an operator outside the standard domain"
    with pytest.raises(ExportError, match=said):
        passes.clean(foreign, ["x"], ["y"], 10, {"y": "model.py:3, in forward"})
    refused = fresh()
    refused.graph.node[0].op_type = "Bernoulli"
    del refused.graph.node[0].input[1:]
    with pytest.raises(ExportError, match=r"Bernoulli: devices refuse this operator"):
        passes.clean(refused, ["x"], ["y"], 10, {})
    external = fresh()
    external.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry = external.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    with pytest.raises(ExportError, match="external files"):
        passes.clean(external, ["x"], ["y"], 10, {})


def test_first_and_second_powers_are_exact() -> None:
    body = "a = Pow (x, one) b = Pow (x, two) c = Pow (x, half) d = Pow (x, ones) e = Pow (two, x)"
    proto = model(
        f"(float[6] x) => (float[6] a, float[6] b, float[6] c, float[2, 6] d, float[6] e) {{ {body} }}",
        one=np.ones((), np.float32), two=np.full((), 2.0, np.float32), half=np.full((), 0.5, np.float32),
        ones=np.ones((2, 1), np.float32),
    )  # fmt: skip
    x = np.array([0.0, -0.0, 1e-30, 3.7, 1e30, np.inf], np.float32)
    wanted = run(proto, x=x)
    assert rewrites.simple_powers(proto.graph) == 2
    assert operators(proto) == ["Identity", "Mul", "Pow", "Pow", "Pow"]
    for found, value in zip(run(proto, x=x), wanted, strict=True):
        assert found.tobytes() == value.tobytes()


def test_expands_go_where_arithmetic_broadcasts() -> None:
    body = "w = Expand (g, shape) m = Div (w, eight) t = Sub (one, m) y = Mul (t, x) z = Add (t, y)"
    proto = model(
        f"(float[3, 1] g, float[3, 4] x) => (float[3, 4] y, float[3, 4] z) {{ {body} }}",
        shape=np.array([3, 4]), eight=np.full((), 8.0, np.float32), one=np.ones((), np.float32),
    )  # fmt: skip
    g, x = draw(3, 1), draw(3, 4)
    wanted = run(proto, g=g, x=x)
    assert rewrites.expand_late(proto) == 2
    passes.drop_dead(proto.graph)
    assert operators(proto) == ["Div", "Sub", "Mul", "Add"]
    for found, value in zip(run(proto, g=g, x=x), wanted, strict=True):
        assert found.tobytes() == value.tobytes()


def test_expands_stay_where_something_needs_their_size() -> None:
    body = "w = Expand (g, shape) y = Div (w, eight) v = Expand (g, shape) z = Mul (w, v) s = Relu (v)"
    proto = model(
        f"(float[3, 1] g) => (float[3, 4] y, float[3, 4] z, float[3, 4] s) {{ {body} }}",
        shape=np.array([3, 4]), eight=np.full((), 8.0, np.float32),
    )  # fmt: skip
    assert unchanged(proto, rewrites.expand_late, g=draw(3, 1)) == 0


@pytest.mark.parametrize(
    ("split", "becomes"),
    [
        ("SplitToSequence <axis = 1> (x, sizes)", "Slice"),
        ("SplitToSequence <axis = -1> (x, sizes)", "Slice"),
        ("SplitToSequence <axis = 1> (x, four)", "Slice"),  # the last part is shorter
        ("SplitToSequence <axis = 1> (x)", "Slice"),
        ("SplitToSequence <axis = 1, keepdims = 0> (x)", "Gather"),
    ],
)
@pytest.mark.parametrize("places", [(0, 1), (1, 1), (1, 0)])
def test_parts_of_a_split_are_slices(split: str, becomes: str, places: tuple[int, int]) -> None:
    body = f"parts = {split} y = SequenceAt (parts, i) z = SequenceAt (parts, j)"
    rank = "[N]" if becomes == "Gather" else "[N, L]"
    proto = model(
        f"(float[N, 6] x) => (float{rank} y, float{rank} z) {{ {body} }}".replace("L] z", "M] z"),
        sizes=np.array([2, 3, 1]), four=np.array(4), i=np.array(places[0]), j=np.array(places[1]),
    )  # fmt: skip
    x = draw(5, 6)
    wanted = run(proto, x=x)
    assert rewrites.parts_by_slices(proto.graph) == 2
    passes.drop_dead(proto.graph)
    assert operators(proto) == [becomes, becomes]
    for found, value in zip(run(proto, x=x), wanted, strict=True):
        np.testing.assert_array_equal(found, value, strict=True)


def test_the_last_part_is_found_where_the_sizes_are_known() -> None:
    for sizes, count in ((np.array([2, 3, 1]), 1), (np.array(2), 0)):
        body = "parts = SplitToSequence <axis = 1> (x, sizes) y = SequenceAt (parts, i)"
        proto = model(f"(float[N, 6] x) => (float[N, L] y) {{ {body} }}", sizes=sizes, i=np.array(-1))
        assert unchanged(proto, lambda m: rewrites.parts_by_slices(m.graph), x=draw(4, 6)) == count


def test_a_split_at_what_only_the_device_knows_stays() -> None:
    body = "parts = SplitToSequence <axis = 1> (x, sizes) y = SequenceAt (parts, i)"
    inputs = {"sizes": np.array([2, 4]), "i": np.array(1)}
    for free, kind in (("sizes", "int64[2]"), ("i", "int64")):
        constants = {name: value for name, value in inputs.items() if name != free}
        proto = model(f"(float[N, 6] x, {kind} {free}) => (float[N, L] y) {{ {body} }}", **constants)
        feeds = {free: inputs[free], "x": draw(4, 6)}
        assert unchanged(proto, lambda m: rewrites.parts_by_slices(m.graph), **feeds) == 0
