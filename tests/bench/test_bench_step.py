from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgessl.bench import BENCHES, load_bench
from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.step import worker
from edgessl.bench.step.run import TRAINING, Row, run, take_turns
from edgessl.device.storage import tensors
from edgessl.errors import ConfigError

LR = 0.1


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case of one parameter whose step is known: loss = theta * mean(batch), theta' = theta - lr * mean(batch)."""
    folder = tmp_path_factory.mktemp("toy")
    node = onnx.helper.make_node
    nodes = [
        node("ReduceMean", ["batch"], ["gradient"], keepdims=0),
        node("Mul", ["theta", "gradient"], ["scaled"]),
        node("ReduceSum", ["scaled"], ["loss"], keepdims=0),
        node("Mul", ["gradient", "hyper.lr"], ["move"]),
        node("Sub", ["theta", "move"], ["next.theta"]),
        node("ReduceSum", ["noise"], ["unused"], keepdims=0),
    ]
    inputs = {"theta": [1], "batch": [4, 3], "noise": [4, 2], "hyper.lr": []}
    outputs = {"next.theta": [1], "loss": [], "unused": []}
    specs = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph(nodes, "toy", *specs)
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets)
    (folder / "train.onnx").write_bytes(model.SerializeToString())
    means = [1.0, 2.0]
    batch = np.stack([np.full((4, 3), mean, np.float32) for mean in means])
    arrays = {"state.theta": np.array([3.0], np.float32), "batch": batch, "noise": np.zeros((2, 4, 2), np.float32)}
    (folder / "tensors.safetensors").write_bytes(tensors.dumps(arrays))
    # theta is 3, 3 - 0.1, 2.9 - 0.2
    case = {"hyper": {"lr": LR}, "losses": [3.0 * 1.0, 2.9 * 2.0, 2.7 * 1.0]}
    (folder / "case.json").write_text(json.dumps(case))
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real encoder's case, without the graph."""
    from edgessl.bench.case import prepare

    folder = tmp_path_factory.mktemp("real")
    prepare(folder, "cnn1d", "vicreg", batch_size=4)
    return folder


def measured(folder: Path, *backends: str) -> dict[str, Row]:
    return take_turns(folder, 1, backends, 2, 0.02, lambda line: None, {})


def test_a_train_graph_is_measured_without_torch(toy: Path) -> None:
    row = measured(toy, "onnxruntime")["onnxruntime"]
    assert row["error"] is None
    assert row["loads_torch"] is False
    assert row["steps"] >= 6
    assert len(row["turns_ms"]) == 2
    assert row["median_ms"] == pytest.approx(np.median(row["turns_ms"]), abs=2e-3)
    assert 0 < row["min_ms"] <= min(row["turns_ms"])
    assert 10 < row["peak_rss_mb"] < 200
    assert row["ratio_to_torch"] is None
    assert row["compile_s"] is None


def test_a_backend_that_fails_is_a_row_beside_the_others(real: Path) -> None:
    rows = measured(real, "onnxruntime", "torch")
    assert "train.onnx" in rows["onnxruntime"]["error"]
    assert rows["onnxruntime"]["median_ms"] is None
    assert rows["torch"]["error"] is None
    assert rows["torch"]["loads_torch"] is True
    assert rows["torch"]["ratio_to_torch"] == 1.0
    assert set(rows["torch"]) == set(rows["onnxruntime"])


@pytest.mark.parametrize(("objective", "optimizer"), [("vicreg", "adamw"), ("simclr", "sgd")])
def test_the_torch_baseline_takes_the_same_steps_as_ours(objective: str, optimizer: str, tmp_path: Path) -> None:
    from edgessl.bench.case import prepare
    from edgessl.bench.step import torch_backend

    prepare(tmp_path, "cnn1d", objective, batch_size=8, optimizer=optimizer)
    case = json.loads((tmp_path / "case.json").read_text())
    arrays, _ = tensors.loads((tmp_path / "tensors.safetensors").read_bytes())
    step = torch_backend.build(case, arrays, threads=1, compiled=False)
    losses = [step(t) for t in range(3)]
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-4)
    assert len(set(losses)) == 3


def test_onnxruntime_training_takes_the_same_steps_as_ours(tmp_path: Path) -> None:
    """EDGESSL_ORT_TRAINING_PYTHON: a Python with onnxruntime-training-cpu 1.19.2, onnx 1.16.2 and numpy before 2."""
    python = os.environ.get("EDGESSL_ORT_TRAINING_PYTHON")
    if python is None:
        pytest.skip("EDGESSL_ORT_TRAINING_PYTHON names no Python with onnxruntime-training-cpu")
    from edgessl.bench.case import prepare
    from edgessl.bench.step.forward import write_forward

    step = prepare(tmp_path, "cnn1d", "vicreg", batch_size=8, optimizer="adamw")
    write_forward(tmp_path, step, 8)
    rows = take_turns(tmp_path, 1, [TRAINING], 2, 0.02, lambda line: None, {TRAINING: python})
    row = rows[TRAINING]
    assert row["error"] is None  # the losses of the first steps were ours
    assert row["loads_torch"] is False
    assert row["installed_mb"] > 50


def test_a_part_behind_a_stage_is_compared_with_the_whole() -> None:
    from edgessl.bench.case import build_step, input_of
    from edgessl.bench.step.run import _compare_with_whole

    assert input_of("cnn1d@block2").shape == (64, 16)
    assert build_step("cnn1d@block2", "vicreg").parts.encoder.stage_names == ("block3", "pool")
    names = [("cnn1d", "torch", 10.0), ("cnn1d@block2", "torch", 4.0), ("cnn1d@block2", "onnxruntime", 1.0)]
    rows = [{"encoder": e, "backend": b, "threads": 1, "median_ms": ms, "ratio_to_whole": None} for e, b, ms in names]
    _compare_with_whole(rows)
    assert [row["ratio_to_whole"] for row in rows] == [None, 0.4, None]


def test_a_backend_that_computes_something_else_is_refused(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "altered"))
    case = json.loads((folder / "case.json").read_text())
    case["losses"][1] *= 1.01
    (folder / "case.json").write_text(json.dumps(case))
    with pytest.raises(RuntimeError, match=r"step 1: the loss is 5\.8, our step's is 5\.858"):
        worker.prepare({"backend": "onnxruntime", "folder": str(folder), "threads": 1})


def test_a_worker_that_dies_or_hangs_is_an_error() -> None:
    with Worker("edgessl.bench.absent", {}, timeout_s=60) as process, pytest.raises(WorkerError, match="absent"):
        process.ask({})
    # json.tool reads until the end of input before it answers
    with Worker("json.tool", {}, timeout_s=0.5) as process, pytest.raises(WorkerError, match=r"within 0\.5 s"):
        process.ask({})


def test_peak_memory_is_the_process_own() -> None:
    ballast = np.ones(40_000_000)  # ru_maxrss of the child would report these 320 MB
    code = "from edgessl.machine import peak_rss_mb; x = b'x' * 50_000_000; print(peak_rss_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ballast.nbytes == 320_000_000
    assert 50 < float(done.stdout) < 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoders": []}, "encoders"),
        ({"encoders": ["ds_cnn_xl"]}, "ds_cnn_xl"),
        ({"objective": "byol"}, "vicreg, simclr"),
        ({"threads": [0]}, "threads"),
        ({"backends": ["jax"]}, "jax"),
        ({"batch_size": 1}, "batch_size"),
        ({"turns": 0}, "turns"),
        ({"turn_seconds": 0.0}, "turn_seconds"),
        ({"optimizer": "adam"}, "sgd, adamw"),
        ({"backends": "onnxruntime_training"}, "no SGD with momentum"),
        ({"backends": "onnxruntime_training", "optimizer": "adamw"}, "training_python=/path/to/python"),
        ({"backends": "onnxruntime_training", "optimizer": "adamw", "training_python": "/no/python"}, "/no/python"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_benches_are_found_by_name() -> None:
    assert load_bench("step") is run
    assert all(callable(load_bench(name)) for name in BENCHES)
    with pytest.raises(ConfigError, match="choose one of step, objectives, "):
        load_bench("stpe")


def test_importing_the_benches_loads_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "matplotlib")
    code = "import sys, edgessl.bench.step.run, edgessl.bench.step.worker; print([m for m in {} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
