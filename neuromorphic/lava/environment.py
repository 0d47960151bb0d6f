"""The worker's own Python environment: found, made by `edgessl neuro setup`, and kept in a cache folder.

Lava 0.10.0, the last one, wants Python 3.10 and numpy 1. `EDGESSL_LAVA_PYTHON` may name the interpreter of an
environment that has it already; `EDGESSL_CACHE` moves the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgessl.errors import MissingDependencyError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PROBE = (
    "import json, platform, numpy, importlib.metadata as m; import sys; sys.path.insert(0, sys.argv[1]); "
    "import main; main.enable_newer_python(); import lava.proc.lif.process; "
    "print(json.dumps({'python': platform.python_version(), 'numpy': numpy.__version__, 'lava': m.version('lava-nc')}))"
)
WORKER = Path(__file__).with_name("lava-worker")
INSTALL_SECONDS = 900.0


class LavaUnavailableError(MissingDependencyError):
    """There is no Lava worker environment, or none can be made; the message says what to do."""


@dataclass(frozen=True)
class Environment:
    """A Python that can run Lava; `versions` has python, numpy and lava."""

    python: Path
    versions: dict[str, str]


def cache_folder() -> Path:
    """Where the environment lives: $EDGESSL_CACHE, else $XDG_CACHE_HOME/edgessl, else ~/.cache/edgessl."""
    if given := os.environ.get("EDGESSL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgessl"


def environment_folder() -> Path:
    """The folder of the environment that fits this version's requirements."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    return cache_folder() / f"lava-worker-{digest}"


def find_environment() -> Environment:
    """The environment that was set up, or the one that EDGESSL_LAVA_PYTHON names.

    Raises:
        LavaUnavailableError: there is none, or it cannot import Lava.
    """
    if given := os.environ.get("EDGESSL_LAVA_PYTHON"):
        return Environment(Path(given), _check(Path(given), "EDGESSL_LAVA_PYTHON"))
    ready = environment_folder() / "ready.json"
    try:
        return Environment(_python(environment_folder()), json.loads(ready.read_text()))
    except (OSError, json.JSONDecodeError):
        raise LavaUnavailableError("the Lava worker is not set up; run: edgessl neuro setup") from None


def find_python310() -> Path:
    """A Python 3.10 on PATH, among pyenv's versions, or known to uv.

    Raises:
        LavaUnavailableError: there is none; says how to get one.
    """
    tried = []
    for candidate in _candidates():
        if _version(candidate) == "3.10":
            return candidate
        tried.append(str(candidate))
    raise LavaUnavailableError(
        "no Python 3.10 found, which Lava 0.10.0 needs"
        + (f" (tried {', '.join(tried)})" if tried else "")
        + "; run `uv python install 3.10` or `pyenv install 3.10`, or install your system's python3.10, then "
        "`edgessl neuro setup` again; or point EDGESSL_LAVA_PYTHON at an environment that has lava-nc 0.10.0"
    )


def set_up(progress: Callable[[str], None] = lambda line: None, force: bool = False) -> Environment:
    """Make the environment, or return the one that is there.

    Args:
        progress: called with a line per stage.
        force: make it anew.

    Raises:
        LavaUnavailableError: no Python 3.10, or installing failed; carries the installer's own words.
    """
    if not force:
        try:
            return find_environment()
        except LavaUnavailableError:
            if os.environ.get("EDGESSL_LAVA_PYTHON"):
                raise
    python, folder = find_python310(), environment_folder()
    progress(f"Python 3.10: {python}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = _python(folder)
    if uv := shutil.which("uv"):
        progress(f"making {folder} with uv")
        _install([uv, "venv", "--quiet", "--python", str(python), str(folder)])
        progress("installing lava-nc 0.10.0")
        _install([uv, "pip", "install", "--quiet", "--python", str(target), "-r", str(REQUIREMENTS)])
    else:
        progress(f"making {folder} with venv")
        _install([str(python), "-m", "venv", str(folder)])
        progress("installing lava-nc 0.10.0")
        pip = [str(target), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, "-r", str(REQUIREMENTS)])
    progress("importing Lava")
    versions = _check(target, str(folder))
    (folder / "ready.json").write_text(json.dumps(versions))  # last: without it the environment does not count
    return Environment(target, versions)


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _candidates() -> Iterator[Path]:
    for name in ("python3.10", "python3", "python"):
        if found := shutil.which(name):
            yield Path(found)
    root = os.environ.get("PYENV_ROOT")
    for base in [Path(root)] if root else [Path.home() / ".pyenv"]:
        yield from sorted(base.glob("versions/3.10*/bin/python3.10"), reverse=True)
    if uv := shutil.which("uv"):
        # without this uv would download one unasked
        command = [uv, "python", "find", "--no-python-downloads", "3.10"]
        found_by_uv = subprocess.run(command, capture_output=True, text=True, check=False)
        if found_by_uv.returncode == 0:
            yield Path(found_by_uv.stdout.strip())


def _version(python: Path) -> str:
    """Like "3.10", or "" where it does not run: pyenv's shims stand on PATH even for versions that are not chosen."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _install(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise LavaUnavailableError(
            f"{command[0]} did not end within {INSTALL_SECONDS:g} s; is the network there?"
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LavaUnavailableError(f"{' '.join(command[:4])} failed with code {done.returncode}:\n{said}")


def _check(python: Path, where: str) -> dict[str, str]:
    try:
        command = [str(python), "-c", PROBE, str(WORKER)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LavaUnavailableError(
            f"{where}: {python} does not run ({error}); run: edgessl neuro setup --force"
        ) from error
    if done.returncode:
        said = done.stderr.strip()[-2000:]
        raise LavaUnavailableError(f"{where}: {python} cannot import Lava; run: edgessl neuro setup --force\n{said}")
    versions: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return versions
