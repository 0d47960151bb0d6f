from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgessl.bench import BENCHES, load_bench, worker
from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.step import run
from edgessl.errors import ConfigError

COLUMNS = {
    "encoder": str,
    "objective": str,
    "backend": str,
    "threads": int,
    "median_ms": float,
    "min_ms": float,
    "steps": int,
    "turns_ms": list,
    "ratio_to_torch": float,
    "peak_rss_mb": float,
    "import_s": float,
    "setup_s": float,
    "first_step_s": float,
    "installed_mb": float,
    "loads_torch": bool,
}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    backends = ("onnxruntime", "torch")
    return run(["cnn1d"], "vicreg", [1], backends, batch_size=4, turns=2, turn_seconds=0.02)


def test_the_result_is_json_with_the_documented_keys(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"bench", "machine", "versions", "settings", "load_before", "warnings", "rows"}
    assert result["bench"] == "step"
    assert {"torch", "onnxruntime", "numpy"} <= set(result["versions"])
    assert result["settings"]["input_shapes"] == {"cnn1d": [6, 128]}


def test_every_backend_gives_a_full_row(result: dict[str, Any]) -> None:
    assert [row["backend"] for row in result["rows"]] == ["onnxruntime", "torch"]
    for row in result["rows"]:
        assert row["error"] is None
        assert {name: type(row[name]) for name in COLUMNS} == COLUMNS
        assert set(row) == {*COLUMNS, "compile_s", "error"}
        assert row["steps"] >= 6
        assert row["median_ms"] == pytest.approx(np.median(row["turns_ms"]), abs=1e-3)
        assert 0 < row["min_ms"] <= row["median_ms"]


def test_ratios_are_to_torch(result: dict[str, Any]) -> None:
    ours, torch = result["rows"]
    assert torch["ratio_to_torch"] == 1.0
    assert ours["ratio_to_torch"] == pytest.approx(ours["median_ms"] / torch["median_ms"], abs=1e-3)


def test_the_onnxruntime_worker_never_loads_torch(result: dict[str, Any]) -> None:
    ours, torch = result["rows"]
    assert not ours["loads_torch"]
    assert torch["loads_torch"]
    assert ours["peak_rss_mb"] < torch["peak_rss_mb"]
    assert ours["installed_mb"] < torch["installed_mb"]


@pytest.mark.parametrize("objective", ["vicreg", "simclr"])
def test_the_torch_baseline_takes_the_same_steps_as_ours(objective: str, tmp_path: Path) -> None:
    from edgessl.bench import torch_backend
    from edgessl.bench.case import prepare
    from edgessl.device import tensors

    prepare(tmp_path, "cnn1d", objective, batch_size=8)
    case = json.loads((tmp_path / "case.json").read_text())
    arrays, _ = tensors.loads((tmp_path / "tensors.safetensors").read_bytes())
    step = torch_backend.build(case, arrays, threads=1, compiled=False)
    losses = [step(t) for t in range(3)]
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-4)
    assert len(set(losses)) == 3


def test_a_backend_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    from edgessl.bench.case import prepare

    prepare(tmp_path, "cnn1d", "vicreg", batch_size=4)
    case = json.loads((tmp_path / "case.json").read_text())
    case["losses"][1] *= 1.01
    (tmp_path / "case.json").write_text(json.dumps(case))
    with pytest.raises(RuntimeError, match="step 1: the loss is"):
        worker.prepare({"backend": "torch", "folder": str(tmp_path), "threads": 1})


def test_a_backend_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        Worker("edgessl.bench.worker", {}, timeout_s=60) as process,
        pytest.raises(WorkerError, match=r"FileNotFoundError.*case\.json"),
    ):
        process.ask({"backend": "onnxruntime", "folder": str(tmp_path), "threads": 1})


def test_a_worker_that_dies_or_hangs_is_an_error() -> None:
    with Worker("edgessl.bench.absent", {}, timeout_s=60) as process, pytest.raises(WorkerError, match="absent"):
        process.ask({})
    # json.tool reads until the end of input before it answers
    with Worker("json.tool", {}, timeout_s=0.5) as process, pytest.raises(WorkerError, match=r"within 0\.5 s"):
        process.ask({})


def test_peak_memory_is_the_process_own() -> None:
    ballast = np.ones(40_000_000)  # ru_maxrss of the child would report these 320 MB
    code = "from edgessl.bench.worker import peak_rss_mb; x = b'x' * 50_000_000; print(peak_rss_mb())"
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
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_benches_are_found_by_name() -> None:
    assert load_bench("step") is run
    assert all(callable(load_bench(name)) for name in BENCHES)
    with pytest.raises(ConfigError, match="choose one of step"):
        load_bench("stpe")


def test_importing_the_benches_loads_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "matplotlib")
    code = "import sys, edgessl.bench.step, edgessl.bench.worker; print([m for m in {} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
