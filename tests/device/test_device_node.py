"""`examples/node/learn.mjs`: another language, the same numbers. Opt-in, as it installs onnxruntime-node with npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgessl.device import EncoderRunner, StepRunner
from edgessl.device.storage import tensors

EXAMPLE = Path(__file__).parents[2] / "examples" / "node" / "learn.mjs"
STEPS = 5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program beside onnxruntime-node; EDGESSL_NODE_MODULES names a folder that has it already."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    home = tmp_path_factory.mktemp("node")
    shutil.copy(EXAMPLE, home)
    ready = os.environ.get("EDGESSL_NODE_MODULES")
    if ready:
        (home / "node_modules").symlink_to(ready)
    else:
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "onnxruntime-node@1"]
        found = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=600)
        if found.returncode:
            pytest.skip(f"npm cannot install onnxruntime-node: {found.stderr.strip()[-200:]}")
    return home / EXAMPLE.name


@pytest.mark.slow
def test_node_learns_what_python_learns(program: Path, bundle, bundle_path: Path, kit, tmp_path: Path) -> None:
    rng, batch = np.random.default_rng(0), bundle.manifest.batch_size
    given = {
        "x": kit.samples(5),
        "batch": np.stack([kit.samples(batch, seed=t) for t in range(STEPS)]),
        "noise": rng.random((STEPS, *bundle.manifest.noise_shape), dtype=np.float32),
    }
    (tmp_path / "input.safetensors").write_bytes(tensors.dumps(given))
    command = ["node", str(program), str(bundle_path), str(tmp_path / "input.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    encoder, trainer = EncoderRunner(bundle), StepRunner(bundle)
    before = encoder.embed(trainer.theta, given["x"])
    losses = [
        trainer.step(x, noise, bundle.manifest.hyper)["loss"]
        for x, noise in zip(given["batch"], given["noise"], strict=True)
    ]
    after = encoder.embed(trainer.theta, given["x"])
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
    np.testing.assert_allclose(found["before"], before.ravel(), atol=1e-6)
    np.testing.assert_allclose(found["after"], after.ravel(), atol=1e-5)
    np.testing.assert_allclose(found["theta"], trainer.theta.numpy(), atol=1e-6)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.slow
def test_a_damaged_bundle_is_refused(program: Path, bundle_path: Path, kit, tmp_path: Path) -> None:
    data = bytearray(bundle_path.read_bytes())
    data[data.index(kit.members["train.onnx"]) + 100] ^= 1
    (tmp_path / "bad.edgessl").write_bytes(data)
    command = ["node", str(program), str(tmp_path / "bad.edgessl"), "none"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode != 0
    assert "disagrees with the manifest" in run.stderr
