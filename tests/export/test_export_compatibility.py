"""Who else reads our graphs: other onnxruntimes, OpenVINO, ncnn; the oldest opset they can claim; same bytes twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from tensorrt_cases import BATCH, ROWS, single

from edgessl.checkpoint import Checkpoint
from export import Graphs, export_bundle, trace_frozen_encoder
from export.opset import IR_OLDEST, lower_opset
from export.parity import graph_session, random_fields

TRACE = """
import hashlib, torch
from edgessl.encoders import build_encoder
from edgessl.layout import ParameterLayout
from edgessl.objectives.network import Parts
from export import trace_encoder
torch.manual_seed(0)
encoder = build_encoder("mlp", (12,))
layout = ParameterLayout.of(Parts(encoder, {}))
print(hashlib.sha256(trace_encoder(encoder, layout).SerializeToString(deterministic=True)).hexdigest())
"""


def stamp(model: onnx.ModelProto) -> tuple[int, int]:
    return model.opset_import[0].version, model.ir_version


@pytest.mark.parametrize(
    ("model", "oldest"),
    [
        (single("Relu", ["x"], [BATCH]), 14),  # 14 took integers: a revision that the table does not know as harmless
        (single("ReduceMax", ["x"], [ROWS]), 18),
        (single("Gelu", ["x"], [ROWS]), 20),
        (single("LayerNormalization", ["x", "x"], [("x", TensorProto.FLOAT, (4,))]), 17),
        (single("Reshape", ["x", "s"], [ROWS], {"s": np.array([6, 4])}), 14),
        (single("Cast", ["x"], [ROWS], to=TensorProto.FLOAT), 13),
        (single("Cast", ["x"], [ROWS], to=TensorProto.FLOAT, saturate=0), 19),
    ],
)
def test_the_oldest_opset(model: onnx.ModelProto, oldest: int) -> None:
    before = model.graph.SerializeToString()
    assert stamp(lower_opset(model)) == (oldest, IR_OLDEST)
    assert model.graph.SerializeToString() == before  # nothing but the stamp


def test_an_older_stamp_stays() -> None:
    model = single("Relu", ["x"], [BATCH], opset=14)
    model.ir_version = 7
    assert stamp(lower_opset(model)) == (14, 7)


def test_what_is_exported_claims_no_more_than_it_needs(case: Any) -> None:
    encoder, train = case.graphs.encoder, case.graphs.train
    assert stamp(encoder) == (20 if any(n.op_type == "Gelu" for n in encoder.graph.node) else 18, 8)
    assert stamp(train) in ((19, 8), (20, 8))
    for model in (encoder, train):
        onnx.checker.check_model(model)
        assert not model.doc_string
        assert not model.metadata_props
        assert not model.graph.value_info
        assert all(not node.name and not node.doc_string and not node.metadata_props for node in model.graph.node)
    weights = 4 * case.step.layout.size
    assert len(encoder.SerializeToString()) < 16_000  # without weights: those are an input
    assert len(train.SerializeToString()) < 200_000 < 5 * weights


def test_the_stamp_changes_no_result(case: Any) -> None:
    lowered = case.graphs.encoder
    modern = onnx.ModelProto.FromString(lowered.SerializeToString())
    modern.opset_import[0].version, modern.ir_version = 20, 10
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((3, *case.spec.shape), generator=generator).numpy()
    feeds = {lowered.graph.input[0].name: case.step.initial_state()["theta"].numpy(), "x": x}
    found, expected = (graph_session(model).run(None, feeds)[0] for model in (lowered, modern))
    np.testing.assert_array_equal(found, expected)


def test_tracing_gives_the_same_bytes_in_every_process() -> None:
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", TRACE], capture_output=True, text=True, env=environment, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_the_same_input_gives_the_same_bundle(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764201600")
    paths = [tmp_path / name / "x.edgessl" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        export_bundle(checkpoint, path, calibration=samples[:64], graphs=graphs)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_other_onnxruntimes_run_it(case: Any, tmp_path: Path) -> None:
    """EDGESSL_ORT_PYTHONS=/old/bin/python:/new/bin/python, each with numpy and an onnxruntime of its own."""
    interpreters = [p for p in os.environ.get("EDGESSL_ORT_PYTHONS", "").split(os.pathsep) if p]
    if not interpreters:
        pytest.skip("EDGESSL_ORT_PYTHONS names no other Python with an onnxruntime")
    x, theta = np.ones((2, *case.spec.shape), np.float32), case.step.initial_state()["theta"].numpy()
    slot = case.graphs.encoder.graph.input[0].name
    (expected,) = graph_session(case.graphs.encoder).run(None, {slot: theta, "x": x})
    np.savez(tmp_path / "case.npz", theta=theta, x=x)
    onnx.save(case.graphs.encoder, tmp_path / "encoder.onnx")
    onnx.save(case.graphs.train, tmp_path / "train.onnx")
    code = f"""
import numpy as np, onnxruntime as ort
given = np.load("case.npz")
open_ = lambda name: ort.InferenceSession(name, providers=["CPUExecutionProvider"])
(z,) = open_("encoder.onnx").run(None, {{{slot!r}: given["theta"], "x": given["x"]}})
open_("train.onnx")
np.save("z.npy", z)
"""
    for python in interpreters:
        subprocess.run([python, "-c", code], cwd=tmp_path, check=True, capture_output=True)
        np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_openvino_runs_it(case: Any) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    x, theta = np.ones((2, *case.spec.shape), np.float32), case.step.initial_state()["theta"].numpy()
    slot = case.graphs.encoder.graph.input[0].name
    (expected,) = graph_session(case.graphs.encoder).run(None, {slot: theta, "x": x})
    core = openvino.Core()
    encoder, train = (core.read_model(m.SerializeToString()) for m in (case.graphs.encoder, case.train))
    compiled = core.compile_model(encoder, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({slot: theta, "x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    core.compile_model(train, "CPU")  # the whole training step, too


NCNN = """
import ncnn, numpy as np
given = np.load("case.npz")
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
assert net.load_param("encoder.ncnn.param") == 0 and net.load_model("encoder.ncnn.bin") == 0
rows = []
for x in given["x"]:
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(x)).clone())
    rows.append(np.array(extractor.extract("out0")[1]).ravel())
np.save("z.npy", np.stack(rows))
"""


def test_ncnn_runs_a_frozen_encoder(ds_cnn: Any, tmp_path: Path) -> None:
    """EDGESSL_NCNN_PYTHON: a Python with `pip install ncnn pnnx`, whose converter comes with a torch of its own."""
    python = os.environ.get("EDGESSL_NCNN_PYTHON")
    if python is None:
        pytest.skip("EDGESSL_NCNN_PYTHON names no Python with ncnn and pnnx")
    encoder = ds_cnn.encoder(ds_cnn.trained()["theta"])
    onnx.save(lower_opset(trace_frozen_encoder(encoder)), tmp_path / "encoder.onnx")
    x = random_fields(ds_cnn.spec, 3, 0)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(x)).numpy()
    np.savez(tmp_path / "case.npz", x=x)
    sizes = ",".join(map(str, ds_cnn.spec.shape))
    convert = [str(Path(python).with_name("pnnx")), "encoder.onnx", f"inputshape=[1,{sizes}]", "fp16=0"]
    for command in (convert, [python, "-c", NCNN]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
