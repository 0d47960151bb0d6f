"""The GPU bench where there is none, and on one (`make test-gpu`)."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from edgessl.bench.gpu.run import DOORS, run
from edgessl.errors import ConfigError


def test_unknown_contenders() -> None:
    with pytest.raises(ConfigError, match="unknown 'cpu'; known: torch, cuda"):
        run(contenders=["torch", "cpu"])


def test_unknown_parts() -> None:
    with pytest.raises(ConfigError, match="parts: unknown 'tail'; known: encoder, step"):
        run(parts=["tail"])


@pytest.mark.slow
def test_without_contenders_the_graphs_are_exported_once_and_kept(tmp_path: Path) -> None:
    assert run(["cnn1d"], [], parts=["encoder"], graphs=str(tmp_path))["rows"] == []
    (kept,) = tmp_path.iterdir()
    assert kept.name == "cnn1d.encoder.onnx"
    assert [i.name for i in onnx.load(kept).graph.input] == ["theta", "x"]
    kept.write_bytes(b"taken as it is")
    run(["cnn1d"], [], parts=["encoder"], graphs=str(tmp_path))
    assert kept.read_bytes() == b"taken as it is"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"sees no NVIDIA GPU here.*nvidia-smi"):
        run()


@pytest.mark.gpu
def test_every_contender_runs_or_says_why() -> None:
    result = run(["ds_cnn_s"], batch_sizes=[2], turns=3)
    assert {row["contender"] for row in result["rows"]} == {"torch", *DOORS}
    for row in result["rows"]:
        if row["error"] is None:
            assert row["worst_error"] < 1e-3
            assert 0 < row["median_ms"] <= row["p90_ms"]
        else:
            assert row["median_ms"] is None
            assert row["contender"] != "torch"
