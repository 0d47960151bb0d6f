from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from edgessl.machine import installed_mb, installed_version, machine, versions


def test_machine_is_json_and_plausible() -> None:
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_gb"] is None or found["memory_gb"] > 0.1


def test_versions_leave_out_what_is_absent() -> None:
    found = versions(["numpy", "no-such-package"])
    assert set(found) == {"python", "edgessl", "numpy"}
    assert found["numpy"] == metadata.version("numpy")
    assert installed_version("no-such-package") is None


def _on_disk(package: str) -> float:
    """The package's folder and its metadata folder, walked."""
    site = Path(str(metadata.distribution(package).locate_file("")))
    folders = [site / package, *site.glob(f"{package}-*.dist-info")]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc"]
    return sum(f.stat().st_size for f in files) / 1e6


def test_installed_size_is_what_lies_on_disk() -> None:
    assert installed_mb(["click"]) == pytest.approx(_on_disk("click"), rel=0.01)


def test_installed_size_counts_requirements_once_and_no_extras() -> None:
    rich = installed_mb(["rich"])
    assert rich > _on_disk("rich") + _on_disk("pygments")
    assert installed_mb(["rich", "Pygments", "rich"]) == rich
    assert installed_mb(["no-such-package"]) == 0
