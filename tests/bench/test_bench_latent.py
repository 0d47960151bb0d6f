"""The latent bench on the hand-written bundles: what a row says, measured by real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import latent_bundle
import linear_bundle
import pytest

from edgessl.bench import BENCHES
from edgessl.bench.device import latent
from edgessl.device import pack
from edgessl.errors import ConfigError


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    pack(folder / "full.edgessl", linear_bundle.build_manifest(), linear_bundle.build_members())
    pack(folder / "mean.edgessl", latent_bundle.build_manifest(), latent_bundle.build_members())
    return {"full": folder / "full.edgessl", "mean": folder / "mean.edgessl"}


def test_rows_say_what_was_measured(bundles: dict[str, Path]) -> None:
    told: list[str] = []
    full, cut = latent.measure("linear", bundles, turns=2, seconds=0.02, progress=told.append)
    assert (full["cut"], cut["cut"]) == ("full", "mean")
    assert told == ["linear: turn 1 of 2", "linear: turn 2 of 2"]
    for row in (full, cut):
        assert row["error"] is None
        assert row["step_ms"] > 0
        assert row["trained"] == linear_bundle.FEATURES * linear_bundle.DIM
        assert 30 < row["peak_rss_mb"] < 1000
    assert (full["backbone_ms"], full["latent_shape"], full["times_faster"]) == (None, None, 1.0)
    assert (full["bytes_per_sample"], full["sample_bytes_uint8"]) == (64, 16)
    assert cut["backbone_ms"] > cut["backbone_batch_ms"] > 0
    assert (cut["latent_shape"], cut["bytes_per_sample"], cut["sample_bytes_uint8"]) == ([1, 4, 4], 16, 32)
    assert cut["times_faster"] == pytest.approx(full["step_ms"] / cut["step_ms"], abs=0.01)


def test_a_bundle_that_fails_leaves_its_reason_and_the_others_figures(bundles: dict[str, Path], tmp_path: Path) -> None:
    members = latent_bundle.build_members()
    members["backbone.int8.onnx"] = members["encoder.onnx"]
    pack(tmp_path / "wrong.edgessl", latent_bundle.build_manifest(), members)
    wrong = {"full": bundles["full"], "wrong": tmp_path / "wrong.edgessl"}
    full, row = latent.measure("linear", wrong, turns=1, seconds=0.02, progress=lambda line: None)
    assert "backbone.int8.onnx" in row["error"]
    assert (row["step_ms"], row["times_faster"]) == (None, None)
    assert full["step_ms"] > 0


def test_an_encoder_that_was_measured_is_not_measured_again(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(folder: Path, *settings: object) -> dict[str, Path]:
        written.append(folder)
        return bundles

    monkeypatch.setattr(latent, "write", write)
    given: dict[str, Any] = {"turn_seconds": 0.02, "bundles": str(tmp_path / "b"), "out": str(tmp_path / "latent.json")}
    assert latent.run(["one", "two"], turns=0, bundles=given["bundles"])["rows"] == []  # they are only written
    first = latent.run(["one"], turns=1, **given)
    both = latent.run(["one", "two"], turns=1, **given)
    assert written == [tmp_path / "b" / name for name in ("one", "two", "one", "two")]
    assert [(row["encoder"], row["cut"]) for row in both["rows"]] == [
        (encoder, cut) for encoder in ("one", "two") for cut in ("full", "mean")
    ]
    assert both["rows"][:2] == first["rows"]
    assert json.loads((tmp_path / "latent.json").read_text())["rows"] == both["rows"]
    with pytest.raises(ConfigError, match="other settings"):
        latent.run(["one"], turns=2, **given)


def test_bad_settings_are_refused() -> None:
    assert BENCHES["latent"] == "edgessl.bench.device.latent:run"
    with pytest.raises(ConfigError, match="turns >= 1"):
        latent.run(turns=0)
