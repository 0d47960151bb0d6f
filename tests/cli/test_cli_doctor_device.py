"""`edgessl doctor --device`: figures of a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import linear_bundle

from edgessl.device import pack


def test_the_device_path_is_measured(run, tmp_path: Path) -> None:
    path = tmp_path / "model.edgessl"
    pack(path, linear_bundle.build_manifest(), linear_bundle.build_members())
    found = json.loads(run("doctor", "--device", "--bundle", path, "--json").stdout)
    assert 30 < found["installed_mb"] < 200
    assert 0 < found["own_import_ms"] < found["import_ms"]
    assert 20 < found["import_rss_mb"] <= found["open_rss_mb"] <= found["learn_rss_mb"] < 200
    assert found["step_ms"] > 0


def test_what_does_not_run_says_why(run, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    assert "not a readable zip" in run("doctor", "--device", "--bundle", tmp_path / "junk", expect=2).stderr
    assert "goes with --device" in run("doctor", "--bundle", tmp_path / "junk", expect=2).stderr
