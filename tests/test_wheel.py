"""The wheel, installed with its base requirements only, runs the device path: no torch, onnx or flwr anywhere near."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

import linear_bundle
import pytest

from edgessl.device import pack

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib.util, json, sys
import numpy as np
from edgessl.device import Learner
from edgessl.device.background import BackgroundLearner
assert not any(importlib.util.find_spec(name) for name in ("torch", "onnx", "flwr", "cryptography", "scipy"))
x = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
with BackgroundLearner(Learner.open(sys.argv[1], sys.argv[2]), steps_per_sample=1) as learner:
    for sample in x:
        learner.observe(sample)
    learner.flush()
with Learner.open(sys.argv[1], sys.argv[2]) as learner:
    learner.learn(max_steps=3)
    print(json.dumps(learner.metrics()))
"""


@pytest.mark.slow
def test_a_wheel_with_base_requirements_runs_the_device_path(tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True, cwd=tmp_path)
    pack(tmp_path / "b.edgessl", linear_bundle.build_manifest(), linear_bundle.build_members())
    command = [python, "-c", PROGRAM, str(tmp_path / "b.edgessl"), str(tmp_path / "state")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)
    assert (counts["observed"], counts["remembered"]) == (40, 40)
    assert counts["steps"] >= 3
    doctor = [str(home / "bin" / "edgessl"), "doctor", "--device", "--json"]
    found = json.loads(subprocess.run(doctor, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    assert found["installed_mb"] < 130
