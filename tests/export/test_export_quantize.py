"""The int8 encoder: its form, and that it says what the float encoder says, on real digits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source
from edgessl.device import Bundle, FrozenEncoderRunner
from edgessl.encoders import build_encoder
from edgessl.errors import ConfigError, ParityError
from edgessl.evaluate import embed, knn_accuracy
from export import int8_agreement, quantize_encoder


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read("encoder.int8.onnx"))


def test_the_file_is_in_the_fast_form(model: onnx.ModelProto) -> None:
    graph = model.graph
    stored = {t.name: t for t in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 11
    assert "BatchNormalization" not in {n.op_type for n in graph.node}  # folded
    for convolution in convolutions:
        activation, weight, bias = (made_by[name] for name in convolution.input)
        assert {activation.op_type, weight.op_type, bias.op_type} == {"DequantizeLinear"}
        kernel, scales, zeros = (stored[name] for name in weight.input)
        assert kernel.data_type == TensorProto.INT8
        assert list(scales.dims) == [kernel.dims[0]]  # one scale per output channel
        assert next(a.i for a in weight.attribute if a.name == "axis") == 0
        assert not numpy_helper.to_array(zeros).any()
        assert len(np.unique(numpy_helper.to_array(scales))) > 1
        assert stored[activation.input[2]].data_type == TensorProto.UINT8
        assert list(stored[activation.input[1]].dims) == []
        assert stored[bias.input[0]].data_type == TensorProto.INT32
    floats = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.FLOAT)
    whole = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.INT8)
    assert whole > 10 * floats


def test_the_file_is_portable(model: onnx.ModelProto) -> None:
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert not model.metadata_props
    assert all(not node.name and not node.doc_string for node in model.graph.node)
    assert [v.name for v in model.graph.input] == ["x"]
    assert [v.name for v in model.graph.output] == ["embedding"]
    onnx.checker.check_model(model, full_check=True)


def test_it_is_smaller(bundle: Bundle, checkpoint: Checkpoint) -> None:
    floats = 4 * sum(p.numel() for p in checkpoint.encoder().parameters())
    assert len(bundle.read("encoder.int8.onnx")) < 0.6 * floats


def test_it_agrees_on_digits_it_has_not_seen(bundle: Bundle, checkpoint: Checkpoint, digits: Source) -> None:
    x, labels = digits.take(np.arange(400, 1000)), digits.labels[400:1000]
    exact, found = embed(checkpoint.encoder(), x), FrozenEncoderRunner(bundle).embed(x)
    cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.mean() > 0.995
    assert cosine.min() > 0.95
    accuracies = [knn_accuracy(z[:400], labels[:400], z[400:], labels[400:]) for z in (exact, found)]
    assert accuracies[0] > 0.5  # five times chance
    assert abs(accuracies[0] - accuracies[1]) < 0.03


def test_the_figures_are_in_the_manifest(bundle: Bundle) -> None:
    figures = bundle.manifest.parity["encoder_int8"]
    assert figures["cosine_mean"] > 0.99
    assert figures["cosine_min"] <= figures["cosine_mean"] <= 1 + 1e-6
    assert 0.5 < figures["neighbor_overlap"] <= 1


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [("resnet8", (1, 8, 8), {"norm": "batch"}), ("cnn1d", (3, 32), {}), ("vit", (1, 8, 8), {})],
)
def test_other_encoders(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    encoder = build_encoder(name, shape, **options).eval()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((96, *shape), np.float32).cumsum(-1)
    figures = int8_agreement(encoder, quantize_encoder(encoder, x[:64]), x[64:])
    assert figures["cosine_mean"] > 0.98


def test_too_few_samples_are_refused(checkpoint: Checkpoint, samples: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="15 samples; give at least 16"):
        quantize_encoder(checkpoint.encoder(), samples[:15])


def test_agreement_is_measured_and_its_lack_refused(
    checkpoint: Checkpoint, model: onnx.ModelProto, samples: np.ndarray
) -> None:
    encoder = checkpoint.encoder()
    figures = int8_agreement(encoder, model, samples[:64])
    # by hand
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": samples[:64]})
    exact = embed(encoder, samples[:64])
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (exact, found))
    assert figures["cosine_mean"] == pytest.approx((a * b).sum(1).mean(), rel=1e-5)
    assert figures["cosine_min"] == pytest.approx((a * b).sum(1).min(), rel=1e-5)
    overlap = [len(set(np.argsort(-(a @ a[i]))[1:11]) & set(np.argsort(-(b @ b[i]))[1:11])) / 10 for i in range(64)]
    assert figures["neighbor_overlap"] == pytest.approx(np.mean(overlap), abs=0.01)
    broken = copy.deepcopy(model)
    kernel = next(t for t in broken.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4)
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    with pytest.raises(ParityError, match="int8 encoder: mean cosine similarity"):
        int8_agreement(encoder, broken, samples[:64])
