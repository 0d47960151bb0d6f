"""Finding and making the Lava worker's environment, and the client's time-outs and errors, without Lava."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from neuromorphic.lava import client, environment
from neuromorphic.lava.client import LavaError, living, run_lava
from neuromorphic.lava.environment import Environment, LavaUnavailableError, find_environment, find_python310
from neuromorphic.random_networks import random_inputs, random_network


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Python 3.10 and no environment anywhere."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGESSL_LAVA_PYTHON", raising=False)
    return tmp_path


def test_without_python310_it_says_what_to_do(nowhere: Path) -> None:
    program(nowhere / "bin" / "python3.10", "raise SystemExit(127)")  # a pyenv shim of a version that is not chosen
    with pytest.raises(LavaUnavailableError) as found:
        find_python310()
    for word in ("uv python install 3.10", "pyenv install 3.10", "EDGESSL_LAVA_PYTHON", str(nowhere / "bin")):
        assert word in str(found.value)
    with pytest.raises(LavaUnavailableError, match="edgessl neuro setup"):
        find_environment()


def test_pyenv_versions_are_found(nowhere: Path) -> None:
    program(nowhere / "pyenv/versions/3.9.1/bin/python3.10", "print('3.9')")
    expected = program(nowhere / "pyenv/versions/3.10.13/bin/python3.10", "print('3.10')")
    assert find_python310() == expected


def test_a_wrong_version_on_path_is_passed_over(nowhere: Path) -> None:
    program(nowhere / "bin/python3.10", "print('3.12')")
    uv = "import sys; print('{0}' if '--no-python-downloads' in sys.argv else '')"
    expected = program(nowhere / "uvs/python3.10", "print('3.10')")
    program(nowhere / "bin/uv", uv.format(expected))
    assert find_python310() == expected


def test_a_failing_installer_is_quoted(nowhere: Path) -> None:
    program(
        nowhere / "bin/python3.10", "import sys\nif '-c' in sys.argv: print('3.10')\nelse: sys.exit('no disk left')"
    )
    with pytest.raises(LavaUnavailableError, match="no disk left"):
        environment.set_up()
    with pytest.raises(LavaUnavailableError, match="neuro setup"):
        find_environment()  # half an environment does not count


def test_a_ready_environment_is_taken(nowhere: Path) -> None:
    folder = environment.environment_folder()
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text(json.dumps({"lava": "0.10.0"}))
    assert find_environment().versions == {"lava": "0.10.0"}
    assert environment.set_up().python == folder / "bin/python"


def test_the_requirements_are_pinned() -> None:
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
    assert "lava-nc==0.10.0" in lines
    assert "numpy==1.26.4" in lines
    assert all("==" in line for line in lines)


def fake(tmp_path: Path, text: str) -> Environment:
    """A "Python" that does something else with the worker's job folder, argv[2]."""
    return Environment(program(tmp_path / "python", text), {})


def test_a_hanging_worker_is_killed_with_its_children(tmp_path: Path) -> None:
    network = random_network("ternary", 0)
    text = (
        "import subprocess, sys, time, os\n"
        f"open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpid()))\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('stuck at step 3', flush=True); time.sleep(60)\n"
    )
    with pytest.raises(LavaError) as found:
        run_lava(network, random_inputs(network, 5, 0), timeout_s=2, environment=fake(tmp_path, text))
    assert "2 s" in str(found.value)
    assert "stuck at step 3" in str(found.value)
    group = int((tmp_path / "group").read_text())
    for _ in range(100):
        if not living(group):
            break
        time.sleep(0.05)
    assert living(group) == []


def test_errors_come_back_whole(tmp_path: Path) -> None:
    network = random_network("ternary", 0)
    text = (
        "import sys, os\nfolder = sys.argv[2]\n"
        "open(os.path.join(folder, 'error.txt'), 'w').write('Traceback\\nValueError: delays')\n"
        "print('said before'); sys.exit(3)\n"
    )
    with pytest.raises(LavaError) as found:
        run_lava(network, random_inputs(network, 5, 0), environment=fake(tmp_path, text))
    for word in ("exit code 3", "Traceback\nValueError: delays", "said before"):
        assert word in str(found.value)


def test_orphans_are_found_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ORPHAN_GRACE_S", 0.2)
    network = random_network("ternary", 0)
    text = (
        "import subprocess, sys, os\n"
        f"open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpid()))\n"
        "open(os.path.join(sys.argv[2], 'done.json'), 'w').write('{}')\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    with pytest.raises(LavaError, match="left 1 processes"):
        run_lava(network, random_inputs(network, 5, 0), environment=fake(tmp_path, text))
    time.sleep(0.1)
    assert living(int((tmp_path / "group").read_text())) == []


def test_jobs_are_files_without_pickle(tmp_path: Path) -> None:
    network = random_network("learning", 5)
    inputs = random_inputs(network, 7, 5)
    client.write_job(tmp_path, network, {name: array[0] for name, array in inputs.items()}, True)
    job = json.loads((tmp_path / "job.json").read_text())
    assert job["steps"] == 7
    assert job["record"]["weights"] == [c.name for c in network.connections if c.rule]
    data = np.load(tmp_path / job["inputs"][0]["data"], allow_pickle=False)
    assert np.array_equal(data.T, next(iter(inputs.values()))[0])
    assert os.listdir(tmp_path)
