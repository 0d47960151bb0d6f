"""`examples/node` and `examples/cpp`: other languages, the same numbers. Opt-in: npm installs, a compiler compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgessl.device import EncoderRunner, StepRunner
from edgessl.device.storage import tensors

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 5

pytestmark = pytest.mark.slow


def node_program(home: Path) -> list[str]:
    """The program beside onnxruntime-node; EDGESSL_NODE_MODULES names a folder that has it already."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    shutil.copy(EXAMPLES / "node" / "learn.mjs", home)
    ready = os.environ.get("EDGESSL_NODE_MODULES")
    if ready:
        (home / "node_modules").symlink_to(ready)
    else:
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "onnxruntime-node@1"]
        found = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=600)
        if found.returncode:
            pytest.skip(f"npm cannot install onnxruntime-node: {found.stderr.strip()[-200:]}")
    return ["node", str(home / "learn.mjs")]


def cpp_program(home: Path) -> list[str]:
    """The program built against the library that pip's onnxruntime ships; EDGESSL_ORT names a release with headers."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler")
    configure = ["cmake", "-S", str(EXAMPLES / "cpp"), "-B", str(home / "build")]
    if release := os.environ.get("EDGESSL_ORT"):
        configure.append(f"-DORT={release}")
    else:
        shipped = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
        if not shipped:
            pytest.skip("this onnxruntime wheel ships no libonnxruntime.so; set EDGESSL_ORT to a release")
        (home / "libonnxruntime.so.1").symlink_to(shipped[0])  # the name the linker asks for
        configure.append(f"-DORT_LIBRARY={home / 'libonnxruntime.so.1'}")
    found = subprocess.run(configure, capture_output=True, text=True, check=False, timeout=120)
    if found.returncode and ("nlohmann_json" in found.stderr or "OpenSSL" in found.stderr):
        pytest.skip("needs nlohmann-json3-dev and libssl-dev")
    assert found.returncode == 0, found.stderr
    built = subprocess.run(
        ["cmake", "--build", str(home / "build")], capture_output=True, text=True, check=False, timeout=600
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stderr
    return [str(home / "build" / "learn")]


@pytest.fixture(scope="module", params=[node_program, cpp_program], ids=["node", "cpp"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    build: Callable[[Path], list[str]] = request.param
    return build(tmp_path_factory.mktemp("language"))


def run(command: list[str], *arguments: Path) -> subprocess.CompletedProcess[str]:
    whole = [*command, *map(str, arguments)]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)


def test_it_learns_what_python_learns(program: list[str], bundle, bundle_path: Path, kit, tmp_path: Path) -> None:
    rng, batch = np.random.default_rng(0), bundle.manifest.batch_size
    given = {
        "x": kit.samples(5),
        "batch": np.stack([kit.samples(batch, seed=t) for t in range(STEPS)]),
        "noise": rng.random((STEPS, *bundle.manifest.noise_shape), dtype=np.float32),
    }
    (tmp_path / "input.safetensors").write_bytes(tensors.dumps(given))
    done = run(program, bundle_path, tmp_path / "input.safetensors")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
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


def test_a_damaged_bundle_is_refused(program: list[str], bundle_path: Path, kit, tmp_path: Path) -> None:
    data = bytearray(bundle_path.read_bytes())
    data[data.index(kit.members["train.onnx"]) + 100] ^= 1
    (tmp_path / "bad.edgessl").write_bytes(data)
    done = run(program, tmp_path / "bad.edgessl", tmp_path / "none")
    assert done.returncode != 0
    assert "disagrees with the manifest" in done.stderr


def test_a_cut_off_bundle_is_refused(program: list[str], bundle_path: Path, tmp_path: Path) -> None:
    data = bundle_path.read_bytes()
    for kept in (0, 10, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.edgessl").write_bytes(data[:kept])
        done = run(program, tmp_path / "cut.edgessl", tmp_path / "none")
        assert done.returncode > 0, f"{kept} bytes: {done.returncode} {done.stderr[-300:]}"  # said no, did not crash
