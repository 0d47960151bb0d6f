from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgessl import doctor
from edgessl.doctor import Check, capabilities, diagnose, requirements, satisfies


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return diagnose()


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_environment_is_described(checks: list[Check]) -> None:
    found = by_name(checks)
    assert len(found) == len(checks)
    assert found["edgessl"].status == "ok"
    assert found["numpy"].status == "ok"
    assert "CPUExecutionProvider" in found["onnxruntime loads"].found
    assert all(check.status == "ok" or check.advice for check in checks)


def test_the_report_is_json(checks: list[Check], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: checks)
    report = doctor.report()
    assert json.loads(json.dumps(report)) == report
    names = [capability["name"] for capability in report["capabilities"]]
    assert names == ["device", "pretrain", "export", "federate", "bench"]


def test_requirements_come_from_the_package_metadata() -> None:
    found = {r.package: r for r in requirements()}
    assert found["numpy"].extra == ""
    assert found["torch"].extra == "train"
    assert found["onnx"].extra == "export"
    assert found["flwr"].extra == "federated"
    assert found["flwr"].install == "pip install 'edgessl[federated]'"
    assert "pytest" not in found


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("2.13.0+cpu", "<2.14,>=2.9", True),
        ("2.14.0", "<2.14,>=2.9", False),
        ("2.14.0.dev1", "<2.14", False),
        ("2.8.1", "<2.14,>=2.9", False),
        ("2.10", ">=2.9", True),
        ("3", ">=3.0.0", True),
        ("1.5", "!=1.5", False),
        ("1.5", "==1.5.0", True),
        ("1.5", ">1.5", False),
        ("1.5", "<=1.5", True),
        ("1.5", "", True),
    ],
)
def test_version_ranges(version: str, specifiers: str, expected: bool) -> None:
    assert satisfies(version, specifiers) is expected


def works(checks: list[Check], *missing: str) -> dict[str, bool]:
    altered = [Check(c.name, "missing" if c.name in missing else "ok", c.found) for c in checks]
    return {c.name: c.works for c in capabilities(altered)}


def test_what_works_follows_from_what_is_missing(checks: list[Check]) -> None:
    everything = dict.fromkeys(["device", "pretrain", "export", "federate", "bench"], True)
    assert works(checks) == everything
    assert works(checks, "onnx") == {**everything, "export": False, "bench": False}
    assert works(checks, "flwr") == {**everything, "federate": False}
    assert works(checks, "torch loads") == {**everything, "pretrain": False, "export": False, "bench": False}
    assert not any(works(checks, "onnxruntime").values())
    assert not any(works(checks, "edgessl").values())


def test_what_is_missing_is_named(checks: list[Check]) -> None:
    altered = [Check("torch", "missing", "not installed"), Check("onnx", "missing", "not installed")]
    found = {c.name: c.why for c in capabilities(altered)}
    assert found["pretrain"] == "missing: torch"
    assert found["export"] == "missing: torch, onnx"


def test_a_package_that_does_not_load_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "PROBES", {"torch": doctor.PROBES["torch"]})
    check = by_name(diagnose())["torch loads"]
    assert check.status == "missing"
    assert "libcudart" in check.found
    assert "torch" in check.advice


def test_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBES", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path))
    found = by_name(diagnose())
    assert (found["C++ compiler"].status, found["shared data"].status) == ("warn", "warn")
    assert str(tmp_path) in found["C++ compiler"].found
    assert "EDGESSL_DATA" in found["shared data"].advice
    assert str(tmp_path) in found["disk"].found
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path / "nowhere"))
    assert "nowhere" in by_name(diagnose())["shared data"].advice


def test_importing_it_loads_nothing(tmp_path: Path) -> None:
    modules: tuple[str, ...] = ("torch", "onnxruntime", "numpy", "matplotlib", "flwr", "rich")
    code = f"import sys, edgessl.doctor; print([m for m in {modules} if m in sys.modules])"
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
