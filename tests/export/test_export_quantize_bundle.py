"""A bundle with every quantized encoder, and the int8 one following what a device learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgessl.checkpoint import Checkpoint
from edgessl.device import Bundle, EncoderRunner, FrozenEncoderRunner, Learner
from edgessl.device.bundle.onnxwire import initializers
from edgessl.device.bundle.specs import InputSpec
from edgessl.device.requantize.encoder import FollowingEncoder
from edgessl.device.requantize.levels import requantized
from edgessl.device.requantize.plan import PLAN_FILE, Plan, Slice
from edgessl.errors import BundleError, ConfigError, InputError
from edgessl.recipe import build_step, parse_recipe
from export import Graphs, export_bundle, step_parity, trace_step
from export.quantize import Quantization, Settings, quantize_graph, with_theta
from export.quantize.requantization import requantization_plan
from export.tensorrt.legality import check


@pytest.fixture(scope="module")
def whole(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    path = tmp_path_factory.mktemp("quantized") / "digits.edgessl"
    wanted = Quantization(Settings(method="mse"), ("ort-cpu", "tensorrt", "int4"), requantize=True)
    return export_bundle(checkpoint, path, calibration=samples, graphs=graphs, quantization=wanted)


@pytest.fixture
def theta(whole: Bundle) -> np.ndarray:
    return whole.state()["theta"]


def moved(theta: np.ndarray) -> np.ndarray:
    return (theta * np.random.default_rng(3).uniform(0.7, 1.4, theta.size)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def test_all_members_are_there_and_judged(whole: Bundle) -> None:
    assert {"encoder.int8.onnx", "encoder.trt.onnx", "encoder.int4.onnx", "ranges.onnx", PLAN_FILE} <= set(whole.files)
    for key in ("encoder_int8", "encoder_trt", "encoder_int4"):
        assert whole.manifest.parity[key]["cosine_mean"] > 0.95
    assert check(onnx.load_from_string(whole.read("encoder.trt.onnx"))).legal
    assert len(whole.read("encoder.int4.onnx")) < len(whole.read("encoder.int8.onnx"))


def test_it_starts_as_the_factory_encoder(whole: Bundle, samples: np.ndarray) -> None:
    assert np.array_equal(FollowingEncoder(whole).embed(samples), FrozenEncoderRunner(whole).embed(samples))


def test_it_follows_what_was_learned(whole: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder, learned = FollowingEncoder(whole), moved(theta)
    exact = EncoderRunner(whole).embed(learned, samples)
    before = cosine(encoder.embed(samples), exact)
    found = encoder.follow(learned, samples)
    assert found.accepted
    assert found.cosine_mean > 0.99
    assert cosine(encoder.embed(samples), exact) > 0.99 > before
    again = FollowingEncoder(whole)
    again.follow(learned, samples)
    assert again.model == encoder.model  # after a restart, bit for bit
    # back where it came from
    assert encoder.follow(theta, samples).accepted
    assert cosine(encoder.embed(samples), EncoderRunner(whole).embed(theta, samples)) > 0.99


def test_the_faster_form_is_measured_and_said(whole: Bundle, samples: np.ndarray) -> None:
    found = FollowingEncoder.fastest(whole, seconds=0.02)
    assert set(found.milliseconds) == {"int8", "float"}
    assert found.form == min(found.milliseconds, key=lambda form: found.milliseconds[form])
    assert np.array_equal(found.embed(samples), FollowingEncoder(whole, form=found.form).embed(samples))


def test_a_learner_requantizes(whole: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    encoder = FollowingEncoder(whole)
    with Learner.open(whole, tmp_path) as learner:
        with pytest.raises(InputError, match="0 to requantize with"):
            learner.requantize(encoder)
        learner.observe(samples)
        learner.learn(max_steps=3)
        before = encoder.model
        assert learner.requantize(encoder).accepted
        assert encoder.model != before
        assert cosine(encoder.embed(samples), learner.embed(samples)) > 0.99


def test_the_device_makes_what_the_workstation_would(graphs: Graphs, theta: np.ndarray, samples: np.ndarray) -> None:
    """numpy on the device and the writer here give the same levels for the same weights and ranges."""
    factory, there = with_theta(graphs.encoder, "theta", theta), with_theta(graphs.encoder, "theta", moved(theta))
    plan = requantization_plan(factory, quantize_graph(factory, samples), theta.size)
    expected = quantize_graph(there, samples).graph
    scales, zeros = ([expected.constants[f"{a}.{k}"] for a in plan.activations] for k in ("scale", "zero"))
    low = np.array([-float(z) * float(s) for s, z in zip(scales, zeros, strict=True)])
    high = np.array([(255 - float(z)) * float(s) for s, z in zip(scales, zeros, strict=True)])
    model = quantize_graph(factory, samples).graph.model().SerializeToString()
    made = onnx.load_from_string(requantized(model, plan, moved(theta), low, high))
    for tensor in made.graph.initializer:
        value, want = numpy_helper.to_array(tensor), expected.constants[tensor.name]
        if value.dtype == np.int32:
            assert np.abs(value - want).max() <= 1 + 1e-5 * np.abs(want).max()
        else:
            assert np.allclose(value, want, rtol=1e-5, atol=0), tensor.name


def test_what_fails_the_check_is_not_used(whole: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder = FollowingEncoder(whole)
    before, z = encoder.model, encoder.embed(samples)
    found = encoder.follow(theta * np.float32(1e30), samples)
    assert not found.accepted
    assert "finite" in found.reason
    # ranges from samples that are nothing like those it is checked on
    narrow = samples.copy()
    narrow[0::2] = 1e-4 * narrow[0::2] + 0.5
    narrow[1::2] *= 1000
    found = encoder.follow(theta, narrow)
    assert not found.accepted
    assert "below 0.95" in found.reason
    assert encoder.model == before
    assert np.array_equal(encoder.embed(samples), z)


def test_what_cannot_be_requantized_with_is_refused(whole: Bundle, theta: np.ndarray, samples: np.ndarray) -> None:
    encoder = FollowingEncoder(whole)
    with pytest.raises(InputError, match="15 to requantize with; give at least 16"):
        encoder.follow(theta, samples[:15])
    with pytest.raises(InputError, match="theta: expected float32"):
        encoder.follow(theta[1:], samples)
    broken = theta.copy()
    broken[0] = np.nan
    with pytest.raises(InputError, match="NaN or infinity; nothing was requantized"):
        encoder.follow(broken, samples)


def test_a_bundle_without_a_plan_says_so(bundle: Bundle) -> None:
    with pytest.raises(
        BundleError, match="'ranges' is not in this bundle; export it with calibration and --requantize"
    ):
        FollowingEncoder(bundle)


def test_plans_survive_their_bytes_and_wrong_ones_are_refused(whole: Bundle) -> None:
    plan = Plan.from_bytes(whole.read(PLAN_FILE))
    assert Plan.from_bytes(plan.to_bytes()) == plan
    for change, message in (
        (lambda d: d.update(format="x"), "format: expected one of edgessl-requantize"),
        (lambda d: d["layers"][0]["weight"].update(offset=10**6), "reaches beyond"),
        (lambda d: d["layers"][0].update(bits=9), r"layers\[0\].bits"),
        (lambda d: d["layers"][0].update(input=99), r"layers\[0\].input"),
        (lambda d: d["layers"][0]["weight"].update(transposed=True), "expected false, or true for a matrix"),
        (lambda d: d["layers"][0].update(extra=1), "unknown key 'extra'"),
    ):
        document = json.loads(plan.to_bytes())
        change(document)
        with pytest.raises(BundleError, match=message):
            Plan.from_bytes(json.dumps(document).encode())
    wrong = json.loads(plan.to_bytes())
    wrong["layers"][0]["levels"] = "nowhere"
    ones = np.ones(len(plan.activations), np.float32)
    with pytest.raises(BundleError, match=r"constant 'nowhere': expected .* found nothing"):
        requantized(
            whole.read("encoder.int8.onnx"),
            Plan.from_bytes(json.dumps(wrong).encode()),
            whole.state()["theta"],
            -ones,
            ones,
        )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_slices_of_theta_are_what_numpy_takes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    transposed = len(shape) == 2 and data.draw(st.booleans())
    offset = data.draw(st.integers(0, 5))
    theta = np.arange(100, dtype=np.float32)
    found = Slice(offset, shape, transposed).of(theta)
    flat = theta[offset : offset + int(np.prod(shape))]
    assert found.shape == shape
    assert np.array_equal(found, flat.reshape(shape[::-1]).T if transposed else flat.reshape(shape))


def test_initializers_are_views_into_the_model(whole: Bundle) -> None:
    data = bytearray(whole.read("encoder.int8.onnx"))
    expected = {t.name: t.raw_data for t in onnx.load_from_string(bytes(data)).graph.initializer if t.raw_data}
    found = initializers(data)
    assert {name: bytes(view) for name, view in found.items()} == expected
    name = next(iter(found))
    found[name][0] ^= 1
    changed = onnx.load_from_string(bytes(data)).graph.initializer
    assert next(t for t in changed if t.name == name).raw_data != expected[name]


def test_what_cannot_be_exported_is_refused(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"targets \['npu'\]: expected some of ort-cpu, tensorrt, int4"):
        Quantization(targets=("npu",))
    with pytest.raises(ConfigError, match="add it to the targets"):
        Quantization(targets=("int4",), requantize=True)


@pytest.mark.slow
def test_a_step_that_rounds_is_exported_and_follows_torch() -> None:
    spec = InputSpec("image", (1, 8, 8), (0.5,), (0.25,), "intensity 0..1")
    recipe = parse_recipe(
        {
            "encoder": {"name": "ds_cnn_s", "options": {"norm": "batch"}},
            "objective": {"name": "vicreg"},
            "optimizer": "sgd",
            "quantization": {"weight_bits": 4},
        }
    )
    step = build_step(recipe, spec)
    model = trace_step(step, (8, *spec.shape))
    assert sum(node.op_type == "Round" for node in model.graph.node) >= 3 * 11  # weight, input and zero point of each
    figures = step_parity(step, step.initial_state(), step.hyper, model, spec, 8)
    assert figures["draws"][-1] <= 1
