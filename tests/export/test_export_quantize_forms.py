"""Both writers, int4 and what comes before them, on small graphs whose exact results are known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from edgessl.errors import ConfigError
from export.quantize import FloatGraph, Settings, float_graph, quantize_graph, with_theta
from export.quantize.equalization import equalize
from export.quantize.floating import run_graph
from export.quantize.int4 import block_scales, blocked_weights, pack_weights, rounded
from export.quantize.layers import layers, residual_adds
from export.quantize.members import exact_results
from export.quantize.sensitivity import mixed_precision, sensitivities, weight_bytes
from export.tensorrt.legality import check

RNG = np.random.default_rng(0)
# two convolutions with a batch norm each, a residual sum, a mean and a matrix product
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (float[N,3,8,8] x) => (float[N,6] embedding)
<float[4,3,5,5] w1, float[4] b1, float[4] g, float[4] h, float[4] m, float[4] v, float[4,1,3,3] w2, float[4] b2,
 float[4,4,1,1] w3, float[4] b3, float[4,6] w4, int64[2] axes = {2, 3}>
{
    c1 = Conv <pads = [2, 2, 2, 2]> (x, w1, b1)
    n1 = BatchNormalization <epsilon = 0.001> (c1, g, h, m, v)
    r1 = Relu (n1)
    c2 = Conv <pads = [1, 1, 1, 1], group = 4> (r1, w2, b2)
    r2 = Relu (c2)
    c3 = Conv (r2, w3, b3)
    s = Add (c3, r1)
    r3 = Relu (s)
    p = ReduceMean <keepdims = 0> (r3, axes)
    embedding = MatMul (p, w4)
}
"""
CONSTANTS = {
    "w1": RNG.standard_normal((4, 3, 5, 5)) * 0.2,
    "b1": RNG.standard_normal(4) * 0.1,
    "g": RNG.uniform(0.5, 2, 4),
    "h": RNG.standard_normal(4) * 0.2,
    "m": RNG.standard_normal(4) * 0.2,
    "v": RNG.uniform(0.5, 2, 4),
    "w2": RNG.standard_normal((4, 1, 3, 3)) * np.array([0.1, 1, 3, 0.5]).reshape(4, 1, 1, 1),
    "b2": RNG.standard_normal(4) * 0.1,
    "w3": RNG.standard_normal((4, 4, 1, 1)),
    "b3": RNG.standard_normal(4) * 0.1,
    "w4": RNG.standard_normal((4, 6)),
}
SAMPLES = RNG.standard_normal((64, 3, 8, 8)).astype(np.float32)


def source() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    kept = [t for t in model.graph.initializer if t.name == "axes"]
    del model.graph.initializer[:]
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in CONSTANTS.items()]
    model.graph.initializer.extend([*kept, *made])
    del model.graph.value_info[:]
    return model


def from_theta() -> tuple[onnx.ModelProto, np.ndarray]:
    """The same graph with its constants sliced out of one vector, the matrix transposed."""
    model, theta, nodes = source(), [], []
    offset = 0
    initializers = {t.name: t for t in model.graph.initializer if t.name != "axes"}
    for name, value in CONSTANTS.items():
        stored = value.T if name == "w4" else value
        for key, number in (("from", offset), ("to", offset + value.size)):
            model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), f"{name}.{key}"))
        shape = numpy_helper.from_array(np.array(stored.shape, np.int64), f"{name}.shape")
        model.graph.initializer.append(shape)
        nodes.append(onnx.helper.make_node("Slice", ["theta", f"{name}.from", f"{name}.to"], [f"{name}.flat"]))
        last = f"{name}.stored" if name == "w4" else name
        nodes.append(onnx.helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [last]))
        if name == "w4":
            nodes.append(onnx.helper.make_node("Transpose", [last], [name], perm=[1, 0]))
        theta.append(stored.ravel())
        offset += value.size
        model.graph.initializer.remove(initializers[name])
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("theta", TensorProto.FLOAT, [offset]))
    return model, np.concatenate(theta).astype(np.float32)


@pytest.fixture
def graph() -> FloatGraph:
    model, theta = from_theta()
    return with_theta(model, "theta", theta)


def reference() -> np.ndarray:
    (found,) = onnx.reference.ReferenceEvaluator(source()).run(None, {"x": SAMPLES})
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def test_theta_is_put_in_and_found_again(graph: FloatGraph) -> None:
    assert "BatchNormalization" not in {node.op_type for node in graph.nodes}
    assert np.allclose(run_graph(graph, SAMPLES)["embedding"], reference(), rtol=1e-4, atol=1e-5)
    _, theta = from_theta()
    for name, origin in graph.origins.items():
        if origin.norm is None:
            assert np.array_equal(theta[origin.index], graph.constants[name])
    assert len(layers(graph)) == 4
    assert [node.output[0] for node in residual_adds(graph)] == ["s"]


def test_ort_cpu_is_in_its_form(graph: FloatGraph) -> None:
    made = quantize_graph(graph, SAMPLES).graph
    onnx.checker.check_model(made.model(), full_check=True)
    for node in made.nodes:
        if node.op_type == "QuantizeLinear":
            assert made.constants[node.input[2]].dtype == np.uint8
    for layer in [node for node in made.nodes if node.op_type == "Conv"]:
        sources = [made.producer(name) for name in layer.input]
        assert [node.op_type for node in sources if node] == ["DequantizeLinear"] * 3
    assert cosine(exact_results(made.model(), SAMPLES), reference()) > 0.999
    assert not check(made.model()).legal


def test_tensorrt_is_legal_and_rounds_the_shortcut(graph: FloatGraph) -> None:
    made = quantize_graph(graph, SAMPLES, target="tensorrt").graph
    assert check(made.model()).legal
    add = next(node for node in made.nodes if node.op_type == "Add")
    kinds = [node.op_type for name in add.input if (node := made.producer(name))]
    assert sorted(kinds) == ["Conv", "DequantizeLinear"]
    for node in made.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zeros = made.constants[node.input[2]]
            assert zeros.dtype == np.int8
            assert not zeros.any()
        if node.op_type == "Conv":
            assert made.constants[node.input[2]].dtype == np.float32
    assert cosine(exact_results(made.model(), SAMPLES), reference()) > 0.999


def test_equalising_changes_nothing_but_the_ranges(graph: FloatGraph) -> None:
    equal = equalize(graph)
    assert np.allclose(run_graph(equal, SAMPLES)["embedding"], reference(), rtol=1e-3, atol=1e-4)
    chain = float_graph(equal.model())
    first, second = (layer for layer in layers(chain) if layer.output in ("c2", "c3"))
    ranges = (
        np.abs(chain.constants[first.weight]).max((1, 2, 3)),
        np.abs(chain.constants[second.weight]).max((0, 2, 3)),
    )
    assert np.allclose(*ranges, rtol=1e-3)


def test_bias_correction_restores_the_means(graph: FloatGraph) -> None:
    wanted = run_graph(graph, SAMPLES, ("c3",))["c3"].mean((0, 2, 3))

    def shift(settings: Settings) -> float:
        made = quantize_graph(graph, SAMPLES, settings).graph
        found = run_graph(made, SAMPLES, ("c3.float",))["c3.float"].mean((0, 2, 3))
        return float(np.abs(found - wanted).max())

    assert shift(Settings(weight_bits=3, correct_bias=True)) < 0.1 * shift(Settings(weight_bits=3))


def test_int4_stands_for_its_blocks(graph: FloatGraph) -> None:
    packed = pack_weights(graph)
    onnx.checker.check_model(packed.model(), full_check=True)
    by_hand = graph.copy()
    for layer in layers(graph):
        weight = graph.constants[layer.weight]
        rows = weight if layer.axis == 0 else weight.T
        flat = rows.reshape(len(rows), -1)
        if flat.shape[1] < 32:  # bytes, a scale per channel
            scale = np.abs(flat).max(1, keepdims=True) / 127
            values = (np.rint(flat / scale) * scale).reshape(rows.shape).astype(np.float32)
        else:
            blocks = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32))).reshape(len(rows), -1, 32)
            values = rounded(blocks, block_scales(blocks)).reshape(len(rows), -1)
            values = values[:, : flat.shape[1]].reshape(rows.shape)
        by_hand.constants[layer.weight] = values if layer.axis == 0 else np.ascontiguousarray(values.T)
    exact = run_graph(by_hand, SAMPLES)["embedding"]
    assert np.allclose(run_graph(packed, SAMPLES)["embedding"], exact, rtol=1e-4, atol=1e-5)
    assert cosine(exact, reference()) > 0.97
    assert np.allclose(exact_results(blocked_weights(graph), SAMPLES), exact, rtol=1e-4, atol=1e-5)


def test_int4_matrices_in_blocks_are_int4() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> e (float[N,64] x) => (float[N,8] y) <float[64,8] w> '
        "{ y = MatMul (x, w) }"
    )
    weight = RNG.standard_normal((64, 8)).astype(np.float32)
    del model.graph.value_info[:]
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    made = blocked_weights(float_graph(model))
    assert [t.data_type for t in made.graph.initializer if "int4" in t.name and "scale" not in t.name] == [
        TensorProto.INT4
    ]
    x = RNG.standard_normal((16, 64)).astype(np.float32)
    found = exact_results(made, x)
    assert cosine(found, x @ weight) > 0.98


def test_mixed_precision_gives_bits_back_where_they_matter(graph: FloatGraph) -> None:
    rows = sensitivities(graph, SAMPLES, SAMPLES, bits=2)
    assert {row.layer for row in rows} == {layer.name for layer in layers(graph)}
    assert [row.harm for row in rows] == sorted((row.harm for row in rows), reverse=True)
    strict, _ = mixed_precision(graph, SAMPLES, SAMPLES, Settings(), low=2, tolerance=0.02)
    loose, _ = mixed_precision(graph, SAMPLES, SAMPLES, Settings(), low=2, tolerance=1.0)
    assert len(loose.layer_bits) == 4  # anything goes
    assert len(strict.layer_bits) < 4
    assert weight_bytes(graph, loose) < weight_bytes(graph, strict) <= weight_bytes(graph, Settings())
    kept = quantize_graph(graph, SAMPLES, strict).graph.model()
    coarse = quantize_graph(graph, SAMPLES, loose).graph.model()
    assert cosine(exact_results(kept, SAMPLES), reference()) > cosine(exact_results(coarse, SAMPLES), reference())


def test_a_layer_left_in_float_stays_so(graph: FloatGraph) -> None:
    made = quantize_graph(graph, SAMPLES, Settings(layer_bits={"c2": 32})).graph
    depthwise = next(node for node in made.nodes if node.output[0].startswith("c2"))
    assert made.constants[depthwise.input[1]].dtype == np.float32


def test_an_unknown_target_is_refused(graph: FloatGraph) -> None:
    with pytest.raises(ConfigError, match="unknown target 'npu'; choose one of ort-cpu, tensorrt"):
        quantize_graph(graph, SAMPLES, target="npu")
