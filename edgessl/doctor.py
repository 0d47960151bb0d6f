"""What is installed here, whether it loads, and what will therefore work. Imports nothing heavy itself.

for check in diagnose(): print(check.status, check.name, check.found, check.advice)
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import edgessl
from edgessl.errors import DataError
from edgessl.machine import installed_version, machine

Status = Literal["ok", "warn", "missing"]

EXTRAS = ("train", "export", "federated")
FREE_GB = 2.0  # room for bundles, checkpoints and a compiler's cache
PROBE_TIMEOUT_S = 60.0
# package -> what a fresh interpreter that imports it should print
PROBES = {
    "onnxruntime": "import onnxruntime as m; print(', '.join(m.get_available_providers()))",
    "torch": "import torch as m; c = m.cuda; print(f'CUDA {m.version.cuda}: ' + ', '.join(c.get_device_name(i) for i in"
    " range(c.device_count())) if c.is_available() else 'CPU only')",
}
COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Check:
    """One finding: `found` says what is there, `advice` what to do unless all is well (then it is empty)."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Capability:
    """Whether a part of edgessl will work here, and what it takes or lacks."""

    name: str
    works: bool
    why: str


@dataclass(frozen=True)
class Requirement:
    """A package that edgessl declares: the extra that brings it ("" for the core) and the versions it takes."""

    package: str
    extra: str
    versions: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'edgessl[{self.extra}]'" if self.extra else "pip install edgessl"


def report() -> dict[str, Any]:
    """Everything as plain JSON values: {"machine", "checks", "capabilities"}."""
    checks = diagnose()
    return {
        "machine": machine(),
        "checks": [asdict(check) for check in checks],
        "capabilities": [asdict(capability) for capability in capabilities(checks)],
    }


def diagnose() -> list[Check]:
    """Python, edgessl, every declared package, providers, CUDA, compiler, shared data and disk, in this order.

    onnxruntime and torch are each loaded in a process of their own, so that a broken one is a finding, not a crash.
    """
    checks = [
        Check("Python", "ok", f"{platform.python_version()} at {sys.executable}"),
        _edgessl(),
    ]
    checks += [_package(requirement) for requirement in requirements()]
    installed = [package for package in PROBES if installed_version(package) is not None]
    checks += [_loads(package) for package in installed]
    return [*checks, _compiler(), _shared_data(), _disk(Path.cwd())]


def capabilities(checks: Sequence[Check]) -> list[Capability]:
    """What works with the findings of `diagnose`: device, pretrain, export, federate, bench, in this order."""
    missing = {check.name for check in checks if check.status == "missing"}
    packages = [(r.extra, r.package) for r in requirements()]

    def needs(name: str, does: str, *extras: str) -> Capability:
        # an extra may list what another one brings already
        wanted = dict.fromkeys(["edgessl", *(p for extra, p in packages if extra in ("", *extras))])
        absent = [n for package in wanted for n in (package, f"{package} loads") if n in missing]
        return Capability(name, not absent, does if not absent else f"missing: {', '.join(absent)}")

    return [
        needs("device", "run a bundle: embed, learn, adapt, save"),
        needs("pretrain", "train encoders without labels", "train"),
        needs("export", "turn a trained encoder into a bundle", "train", "export"),
        needs("federate", "Flower server and clients", "federated"),
        needs("bench", "compare training steps of onnxruntime and torch", "train", "export"),
    ]


def requirements() -> list[Requirement]:
    """What edgessl's own metadata declares: the core's packages, then those of each extra in `EXTRAS`, each once."""
    try:
        declared = metadata.requires("edgessl") or []
    except metadata.PackageNotFoundError:
        return []  # run from a source folder that was never installed
    found: dict[str, Requirement] = {}
    for extra in ("", *EXTRAS):
        for text in declared:
            head, _, marker = text.partition(";")
            named = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
            parts = re.match(r"([A-Za-z0-9._-]+)\s*(.*)", head.strip())
            if (named[1] if named else "") == extra and parts and parts[1] not in found:
                found[parts[1]] = Requirement(parts[1], extra, parts[2].strip())
    return list(found.values())


def satisfies(version: str, specifiers: str) -> bool:
    """Whether the release numbers of `version` obey ">=a,<b" (also <=, >, ==, !=); suffixes like +cpu do not count."""
    for clause in filter(None, (part.strip() for part in specifiers.split(","))):
        parts = re.fullmatch(r"(>=|<=|==|!=|>|<)\s*([\d.]+)", clause)
        if parts is None:
            return True  # a form that edgessl does not use; pip checked it when it installed
        found, bound = _numbers(version), _numbers(parts[2])
        holds = {
            ">=": found >= bound,
            "<=": found <= bound,
            "==": found == bound,
            "!=": found != bound,
            ">": found > bound,
            "<": found < bound,
        }
        if not holds[parts[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(n) for n in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()  # 2.0 is 2
    return tuple(numbers)


def _edgessl() -> Check:
    found = f"{edgessl.__version__} at {Path(edgessl.__file__).parent}"
    if installed_version("edgessl") is None:
        return Check("edgessl", "missing", f"{found}, not installed", "pip install -e '.[all]' in its folder")
    return Check("edgessl", "ok", found)


def _package(requirement: Requirement) -> Check:
    version = installed_version(requirement.package)
    if version is None:
        return Check(requirement.package, "missing", "not installed", requirement.install)
    if not satisfies(version, requirement.versions):
        advice = f"edgessl is made for {requirement.versions}; {requirement.install}"
        return Check(requirement.package, "warn", version, advice)
    return Check(requirement.package, "ok", version)


def _loads(package: str) -> Check:
    """Import `package` in a fresh interpreter; what it prints is what was found."""
    name = f"{package} loads"
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBES[package]], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Check(name, "warn", f"no answer within {PROBE_TIMEOUT_S:g} s", "run this again on an idle machine")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        found = said[-1] if said else f"its process ended with code {done.returncode}"
        return Check(name, "missing", found, f"reinstall it: pip install --force-reinstall {package}")
    return Check(name, "ok", done.stdout.strip())


def _compiler() -> Check:
    named = os.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    if path is None:
        looked = f"CXX={named}" if named else ", ".join(COMPILERS)
        return Check("C++ compiler", "warn", f"none ({looked})", "only torch.compile needs one: install g++ or set CXX")
    return Check("C++ compiler", "ok", path)


def _shared_data() -> Check:
    try:
        from edgessl.data.shared import data_folder  # numpy, which may be what is missing
    except ImportError as error:
        return Check("shared data", "warn", f"cannot look: {error}", "install numpy first")
    try:
        folder = data_folder()
    except DataError as error:
        return Check("shared data", "warn", "absent", str(error))
    count = sum(1 for _ in folder.glob("*.npz"))
    if not count:
        return Check("shared data", "warn", f"no .npz file in {folder}", "set EDGESSL_DATA to the folder that has them")
    return Check("shared data", "ok", f"{count} files in {folder}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free in {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("disk", "warn", f"cannot write in {folder}: {error.strerror}", "change to a folder of yours")
    if free < FREE_GB:
        return Check("disk", "warn", found, f"runs want about {FREE_GB:g} GB")
    return Check("disk", "ok", found)


def main() -> None:
    """Print `report()` as JSON."""
    print(json.dumps(report(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
