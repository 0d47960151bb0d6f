"""The rooms of the design: who may import whom, checked in the source (import-linter) and in fresh interpreters."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = ROOT / "pyproject.toml"
PACKAGES = ("edgessl", "export", "federated", "neuromorphic")
CONFIG = tomllib.loads(CONTRACTS.read_text())["tool"]["importlinter"]
# the parts of edgessl on top of the engine: they may import the other packages
ABOVE = {"__init__", "__main__", "bench", "cli", "demo", "doctor"}
HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "flwr",
    "snntorch",
    "sklearn",
    "scipy",
    "matplotlib",
    "pydantic",
    "rich",
    "click",
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(CONTRACTS), "--no-cache"]
    environment = {**os.environ, "COLUMNS": "300", "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_are_kept() -> None:
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"Contracts: {len(CONFIG['contracts'])} kept, 0 broken." in found.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("edgessl/device/noise.py", "import torch", "device-outside"),
        (
            "edgessl/device/heads/few_label.py",
            "def f():\n    from sklearn.svm import SVC",
            "device-outside",
        ),  # lazily, too
        ("edgessl/errors.py", "import edgessl.machine, rich", "device-outside"),
        ("edgessl/device/noise.py", "import edgessl.views.sampling", "device-inside"),
        ("edgessl/step.py", "import export.trace", "engine"),
        ("edgessl/views/colors.py", "from federated import result", "engine"),
        ("federated/result.py", "import edgessl.layout", "federated"),  # which imports torch
        ("export/trace.py", "import flwr", "export"),
        ("neuromorphic/__init__.py", "import export", "neuromorphic"),
    ],
)
def test_each_contract_can_break(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / module).open("a") as source:
        source.write(f"\n{line}\n")
    found = lint(tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    name = next(c["name"] for c in CONFIG["contracts"] if c["id"] == contract)
    assert f"{name} BROKEN" in found.stdout


def test_every_part_of_the_engine_is_under_contract() -> None:
    parts = {p.stem for p in (ROOT / "edgessl").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    engine = next(c for c in CONFIG["contracts"] if c["id"] == "engine")
    assert {f"edgessl.{part}" for part in parts - ABOVE - {"device"}} == set(engine["source_modules"])
    inside = next(c for c in CONFIG["contracts"] if c["id"] == "device-inside")
    outside_device = {f"edgessl.{part}" for part in parts - {"device", "errors", "__init__", "__main__"}}
    assert outside_device | {"export", "federated", "neuromorphic"} == set(inside["forbidden_modules"])


def test_the_device_imports_what_a_device_has_and_nothing_else() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime"}
    sources = [*(ROOT / "edgessl" / "device").glob("**/*.py"), ROOT / "edgessl" / "errors.py"]
    assert len(sources) > 10
    for source in [*sources, ROOT / "edgessl" / "__init__.py"]:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source.name}: relative import"
                names = [node.module or ""]
            else:
                continue
            for name in names:
                ours = name in ("edgessl.errors", "edgessl.device") or name.startswith("edgessl.device.")
                optional = source.name == "signature.py" and name.split(".")[0] == "cryptography"  # when one is checked
                assert ours or optional or name.split(".")[0] in allowed, f"{source.name} imports {name}"


def fresh(code: str) -> list[str]:
    """Run `code`, which prints a JSON list, in an interpreter of its own."""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    result: list[str] = json.loads(found.stdout)
    return result


DEVICE_MODULES = sorted(
    "edgessl.device" if p.stem == "__init__" else f"edgessl.device.{p.stem}"
    for p in (ROOT / "edgessl" / "device").glob("*.py")
)


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (["edgessl"], (*HEAVY, "numpy", "onnxruntime")),
        (["edgessl.errors"], (*HEAVY, "numpy", "onnxruntime")),
        (DEVICE_MODULES, (*HEAVY, "cryptography")),
    ],
    ids=["edgessl", "errors", "device"],
)
def test_a_fresh_interpreter_loads_nothing_heavy(modules: list[str], forbidden: tuple[str, ...]) -> None:
    code = f"import json, sys\nimport {', '.join(modules)}\nprint(json.dumps(sorted(sys.modules)))"
    loaded = fresh(code)
    assert set(modules) <= set(loaded)
    assert not set(forbidden) & set(loaded)


def test_the_command_line_starts_without_torch() -> None:
    loaded = fresh("import json, sys\nimport edgessl.cli\nprint(json.dumps(sorted(sys.modules)))")
    assert not {"torch", "onnx", "flwr", "sklearn", "matplotlib"} & set(loaded)


WATCHED = """
import json, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "urllib.", "http.")) else None)
{statement}
print(json.dumps(seen))
"""


def test_the_device_path_opens_no_socket_at_import() -> None:
    assert fresh(WATCHED.format(statement=f"import {', '.join(DEVICE_MODULES)}")) == []
    # the watch does see one
    assert "socket.__new__" in fresh(WATCHED.format(statement="import socket; socket.socket().close()"))
