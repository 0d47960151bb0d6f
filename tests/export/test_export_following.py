"""The float encoder that follows the learner: its weights put into the encoder's graph as constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgessl.device import Bundle, EncoderRunner, FollowingEncoder, Learner
from edgessl.device.bundle.onnxwire import check_graph, with_constant
from edgessl.errors import BundleError, ConfigError, InputError


@pytest.fixture
def theta(bundle: Bundle) -> np.ndarray:
    return bundle.state()[bundle.manifest.embed_slot]


def moved(theta: np.ndarray, seed: int = 3) -> np.ndarray:
    return (theta * np.random.default_rng(seed).uniform(0.7, 1.4, theta.size)).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_an_input_becomes_a_constant(data: st.DataObject) -> None:
    """Names and shapes on both sides of what takes one and two bytes on the wire; the onnx package is the judge."""
    name = "w" * data.draw(st.sampled_from([1, 126, 127, 128, 200]))
    shape = tuple(data.draw(st.lists(st.integers(1, 12), max_size=3)))
    value = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n in ("x", name, "out")]
    extra = numpy_helper.from_array(np.full(shape, 2, np.float32), "extra")
    nodes = [helper.make_node("Mul", ["x", name], ["product"]), helper.make_node("Add", ["product", "extra"], ["out"])]
    graph = helper.make_graph(nodes, "g", sides[:2], sides[2:], [extra], doc_string="kept")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_version="1")
    made = with_constant(model.SerializeToString(), name, value)
    check_graph(made, "made")
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    del expected.graph.input[1]
    expected.graph.initializer.append(numpy_helper.from_array(value, name))
    assert onnx.load_from_string(made) == expected
    x = np.ones(shape, np.float32)
    assert np.array_equal(ort.InferenceSession(made).run(None, {"x": x})[0], x * value + 2)


def test_what_is_no_input_is_refused(bundle: Bundle, theta: np.ndarray) -> None:
    model = bundle.read("encoder.onnx")
    with pytest.raises(BundleError, match="no input 'embedding' to make a constant of"):
        with_constant(model, "embedding", theta)
    with pytest.raises(BundleError, match="truncated"):
        with_constant(model[:-3], "theta", theta)
    with pytest.raises(BundleError, match="field 15 of fixed width"):
        with_constant(model + bytes([15 << 3 | 5, 0, 0, 0, 0]), "theta", theta)


def test_it_starts_as_the_factory_encoder_and_follows(bundle: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder, exact = FollowingEncoder(bundle, form="float"), EncoderRunner(bundle)
    assert relative(encoder.embed(samples), exact.embed(theta, samples)) < 1e-5
    learned = moved(theta)
    assert relative(exact.embed(learned, samples), exact.embed(theta, samples)) > 0.05
    found = encoder.follow(learned, samples)
    assert found.accepted
    assert found.cosine_min > 0.99999
    assert relative(encoder.embed(samples), exact.embed(learned, samples)) < 1e-5
    again = FollowingEncoder(bundle, form="float")
    again.follow(learned, samples)
    assert again.model == encoder.model  # after a restart, bit for bit


def test_onnxruntime_folds_what_is_constant(bundle: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    """What makes it fast: no slice of theta and no batch norm is left, and convolutions work in blocks of channels."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(FollowingEncoder(bundle, form="float").model, options)
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert not {"Slice", "BatchNormalization"} & {node.op_type for node in nodes}
    assert {node.domain for node in nodes if node.op_type == "Conv"} == {"com.microsoft.nchwc"}


def test_what_fails_the_check_is_not_used(bundle: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder = FollowingEncoder(bundle, form="float")
    before, z = encoder.model, encoder.embed(samples)
    found = encoder.follow(theta * np.float32(1e30), samples)
    assert not found.accepted
    assert "NaN or infinity" in found.reason
    assert encoder.model == before
    assert np.array_equal(encoder.embed(samples), z)
    with pytest.raises(InputError, match=r"samples: expected float32 \(N, \*\(1, 8, 8\)\)"):
        encoder.follow(theta, samples.astype(np.float64))


def test_a_learner_is_followed(bundle: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    encoder = FollowingEncoder(bundle, form="float")
    with Learner.open(bundle, tmp_path) as learner:
        learner.observe(samples)
        learner.learn(max_steps=2)
        assert relative(encoder.embed(samples), learner.embed(samples)) > 1e-4
        assert learner.requantize(encoder).accepted
        assert relative(encoder.embed(samples), learner.embed(samples)) < 1e-5


def test_following_often_takes_no_more_memory(bundle: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder = FollowingEncoder(bundle, form="float")

    def follow(times: int) -> int:
        for i in range(times):
            assert encoder.follow(moved(theta, i), samples[:32]).accepted
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = follow(10)
    assert follow(40) - before < 40 * encoder_bytes(encoder) / 4  # a leak of each graph would be four times that


def encoder_bytes(encoder: FollowingEncoder) -> int:
    return len(encoder.model)


def test_the_fastest_form_is_chosen_and_said(bundle: Bundle, samples: np.ndarray) -> None:
    found = FollowingEncoder.fastest(bundle, seconds=0.0)
    assert found.form == "float"  # the only one: this bundle cannot be requantized
    assert set(found.milliseconds) == {"float"}
    assert found.milliseconds["float"] > 0
    with pytest.raises(ConfigError, match="form 'fp16': expected one of int8, float"):
        FollowingEncoder(bundle, form="fp16")
