"""Every encoder family through every backend at tiny size (`make bench`)."""

from __future__ import annotations

import json

import pytest

from edgessl.bench.step.run import BACKENDS, run

pytestmark = pytest.mark.bench


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


def test_the_whole_result() -> None:
    result = run(["cnn1d"], "vicreg", [1], ("onnxruntime", "torch"), batch_size=4, turns=2, turn_seconds=0.02)
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"bench", "machine", "versions", "settings", "load_before", "warnings", "rows"}
    assert result["bench"] == "step"
    assert {"torch", "onnxruntime", "numpy"} <= set(result["versions"])
    assert result["settings"]["input_shapes"] == {"cnn1d": [6, 128]}
    for row in result["rows"]:
        assert row["error"] is None
        assert {name: type(row[name]) for name in COLUMNS} == COLUMNS
        assert set(row) == {*COLUMNS, "compile_s", "error"}
    ours, torch = result["rows"]
    assert (ours["backend"], torch["backend"]) == ("onnxruntime", "torch")
    assert torch["ratio_to_torch"] == 1.0
    assert ours["ratio_to_torch"] == pytest.approx(ours["median_ms"] / torch["median_ms"], abs=1e-3)
    assert (ours["loads_torch"], torch["loads_torch"]) == (False, True)
    assert ours["peak_rss_mb"] < torch["peak_rss_mb"]
    assert ours["installed_mb"] < torch["installed_mb"]


@pytest.mark.parametrize("encoder", ["ds_cnn_s", "resnet8", "vit", "cnn1d"])
@pytest.mark.parametrize("objective", ["vicreg", "simclr"])
def test_onnxruntime_and_torch(encoder: str, objective: str) -> None:
    result = run([encoder], objective, [1, 2], ("onnxruntime", "torch"), batch_size=8, turns=1, turn_seconds=0.05)
    assert [(row["threads"], row["backend"]) for row in result["rows"]] == [
        (1, "onnxruntime"),
        (1, "torch"),
        (2, "onnxruntime"),
        (2, "torch"),
    ]
    assert [row["error"] for row in result["rows"]] == [None] * 4


def test_torch_compile() -> None:
    result = run(["cnn1d"], "vicreg", [1], BACKENDS, batch_size=8, turns=1, turn_seconds=0.05)
    row = result["rows"][2]
    assert row["error"] is None
    assert row["compile_s"] == row["first_step_s"] > 0


def test_torch_compile_without_a_compiler_is_a_row_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    result = run(["cnn1d"], "vicreg", [1], ("torch", "torch_compile"), batch_size=8, turns=1, turn_seconds=0.05)
    eager, compiled = result["rows"]
    assert eager["error"] is None
    assert "/nonexistent/g++" in compiled["error"] or "compiler" in compiled["error"]
    assert compiled["median_ms"] is None
    assert compiled["ratio_to_torch"] is None
