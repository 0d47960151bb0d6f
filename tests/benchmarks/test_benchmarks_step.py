"""Every encoder family through every backend at tiny size (`make bench`)."""

from __future__ import annotations

import pytest

from edgessl.bench.step import BACKENDS, run

pytestmark = pytest.mark.bench


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
