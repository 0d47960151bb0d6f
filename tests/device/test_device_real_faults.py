"""Real disks that fail a real process: a full one, one turned read-only, one whose calls fail under it (LD_PRELOAD)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgessl.device import Learner

pytestmark = pytest.mark.slow

# Learns and saves again and again; prints what was acknowledged, and the refusal that ended it.
PROGRAM = textwrap.dedent(
    """
    import json, sys
    import numpy as np
    from edgessl.device import Learner
    from edgessl.errors import StateError
    bundle, home, saves = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng, acknowledged, refusals = np.random.default_rng(0), 0, []
    with Learner.open(bundle, home, memory_bytes=64 << 10, seed=0) as learner:
        shape = learner.bundle.manifest.input.shape
        for _ in range(saves):
            learner.observe(rng.random((16, *shape), dtype=np.float32))
            learner.learn(max_steps=2)
            try:
                learner.save(trial=True)
                learner.mark_good()
                acknowledged = learner.metrics()["observed"]
            except StateError as error:
                refusals.append(str(error))
        learner.observe(rng.random((1, *shape), dtype=np.float32))  # it lives on
    print(json.dumps({"acknowledged": acknowledged, "refusals": refusals}))
    """
)
SAVES = 8


def run(bundle: Path, home: Path, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle), str(home), str(SAVES)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def observed(bundle: Path, home: Path) -> int:
    """What a learner that opens the directory afterwards, on a healthy disk, has observed; it can go on."""
    with Learner.open(bundle, home, memory_bytes=64 << 10, seed=0) as learner:
        count = learner.metrics()["observed"]
        learner.observe(np.zeros((1, *learner.bundle.manifest.input.shape), np.float32))
        learner.learn(max_steps=1)
        learner.save(trial=True)
        assert np.isfinite(learner.theta).all()
    return count


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_a_disk_that_is_full(bundle_path: Path, disk: Path) -> None:
    home = disk / "state"
    assert not run(bundle_path, home)["refusals"]
    before = observed(bundle_path, home)
    free = os.statvfs(disk)
    filler = disk / "other files"
    filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 4096))
    said = run(bundle_path, home)
    assert said["refusals"]
    assert all("No space left" in why for why in said["refusals"])
    filler.unlink()
    assert observed(bundle_path, home) >= max(before, said["acknowledged"])


def test_a_disk_turned_read_only(bundle_path: Path, disk: Path) -> None:
    home = disk / "state"
    run(bundle_path, home)
    before = observed(bundle_path, home)
    files = {p.name: p.read_bytes() for p in home.iterdir()}
    remount(disk, "ro")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle_path), str(home), "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "StateError" in done.stderr  # a clear no, either at once or when saving
    assert "Read-only file system" in done.stdout + done.stderr
    assert {p.name: p.read_bytes() for p in home.iterdir()} == files
    remount(disk, "rw")
    assert observed(bundle_path, home) >= before


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    library = tmp_path_factory.mktemp("preload") / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
    return str(library)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize(
    ("call", "code", "after"),
    [
        ("fsync", errno.EIO, 9),
        ("fsync", errno.EIO, 10),
        ("fsync", errno.EIO, 11),
        ("write", errno.ENOSPC, 12),
        ("write", errno.EIO, 15),
        ("rename", errno.EROFS, 2),
    ],
)
def test_calls_that_fail(
    bundle_path: Path, tmp_path: Path, failing_disk: str, call: str, code: int, after: int, stays: bool
) -> None:
    home = tmp_path / "state"
    trouble = {"LD_PRELOAD": failing_disk, "DISK_CALL": call, "DISK_ERRNO": str(code), "DISK_AFTER": str(after)}
    said = run(bundle_path, home, **trouble, **({"DISK_STAYS": "1"} if stays else {}))
    assert said["refusals"], "the fault was never met"
    assert any(os.strerror(code) in why for why in said["refusals"])
    assert observed(bundle_path, home) >= said["acknowledged"]
    if not stays:
        assert len(said["refusals"]) < SAVES  # one failed call does not end saving
        assert said["acknowledged"] == 16 * SAVES
