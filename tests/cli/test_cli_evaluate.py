"""`edgessl evaluate` on the checkpoint and the bundle that the other commands made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.evaluate.protocol import Result


def test_quick_prints_one_json_object_of_one_protocol(run, made, tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    found = run("evaluate", made.checkpoint, "digits", "--limit", 200, "--epochs", 1, "--out", page, "--json")
    said = json.loads(found.stdout)
    rows = [Result.from_json(row) for row in said["results"]]
    assert [row.name for row in rows] == ["simclr", "random weights", "supervised"]
    assert {row.protocol.digest for row in rows} == {said["protocol"]["digest"]}
    assert said["protocol"]["epochs"] == 1
    assert said["protocol"]["seeds"] == [3]
    assert "supervised reference" in found.stderr
    text = page.read_text(encoding="utf-8")
    assert said["protocol"]["digest"] in text
    assert "<script" not in text
    assert json.loads(page.with_suffix(".json").read_text())["results"] == said["results"]


def test_a_bundle_has_a_row_for_int8(run, exported) -> None:
    found = run("evaluate", exported.bundle, "digits", "--limit", 100, "--epochs", 1, "--knn-k", 3)
    for name in ("simclr, int8", "random weights", "supervised", "RankMe"):
        assert name in found.stdout
    assert "protocol" in found.stdout


def test_what_cannot_be_evaluated_is_said_in_one_paragraph(run, made, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 16, 16), np.float32))
    found = run("evaluate", made.checkpoint, tmp_path / "x.npy", "--data", "kind=image", expect=2)
    assert "needs labels and found none; give labels" in found.stderr
    assert "Traceback" not in found.stderr
    np.savez(tmp_path / "small.npz", x=np.zeros((20, 8, 8), np.float32), y=np.arange(20) % 2)
    found = run("evaluate", made.checkpoint, tmp_path / "small.npz", "--data", "kind=image", expect=2)
    assert "samples are image (1, 8, 8)" in found.stderr
    assert "--data options" in found.stderr
    found = run("evaluate", tmp_path / "x.npy", "digits", expect=2)
    assert "x.npy" in found.stderr
    found = run("evaluate", made.checkpoint, "digits", "--data", "size=[3]", expect=2)
    assert "do not fit its reader" in found.stderr


@pytest.mark.parametrize(("option", "value"), [("--suite", "all"), ("--knn-k", "0"), ("--seeds", "1")])
def test_options_out_of_range_are_refused(run, option: str, value: str) -> None:
    assert option in run("evaluate", "x", "digits", option, value, expect=2).stderr
