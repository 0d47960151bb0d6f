"""What a measurement was made on: the machine and the versions, as plain JSON values. Standard library only."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import edgessl

PACKAGES = ("numpy", "onnxruntime", "torch", "onnx", "onnxscript", "flwr")


def machine() -> dict[str, Any]:
    """`cpu` (model name), `cores` (those this process may use), `memory_gb` (1e9 bytes; None where the system
    does not say), `system`, `architecture`."""
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python, edgessl and those of `packages` that are installed; nothing is imported."""
    found = {name: installed_version(name) for name in packages}
    return {
        "python": platform.python_version(),
        "edgessl": edgessl.__version__,
        **{name: version for name, version in found.items() if version is not None},
    }


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, from its metadata; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_mb(packages: Iterable[str]) -> float:
    """Size on disk, in 1e6 bytes, of `packages` and all that they require, without compiled .pyc files.

    Counts the files that the distributions' own records list; optional extras are left out.
    """
    files = {file for name in _with_requirements(packages) for file in _files(name)}
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in 1e6 bytes."""
    try:
        # Linux: ru_maxrss survives exec, so a child would report its parent's peak when that was larger
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def rss_mb() -> float:
    """Resident memory of this process now, in 1e6 bytes; 0 where no /proc tells."""
    try:
        found = re.search(r"^VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def load_average() -> float | None:
    """Programs that ran or waited to, on average over the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def load_warnings(load: float | None, threads: int) -> list[str]:
    """What to say beside a measurement with `threads` threads when the load average before it was `load`."""
    cores = _usable_cores()
    if load is not None and load + threads > cores + 0.5:
        return [
            f"load {load:.1f} on {cores} cores before the run: with {threads} threads, backends wait for other programs"
        ]
    return []


def _with_requirements(packages: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = [_normal(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name in found or installed_version(name) is None:
            continue  # not installed: a requirement of other platforms
        found.add(name)
        required = [r for r in metadata.requires(name) or [] if "extra ==" not in r]
        waiting += [_normal(re.split(r"[^A-Za-z0-9._-]", r, maxsplit=1)[0]) for r in required]
    return found


def _files(package: str) -> list[Path]:
    listed = metadata.files(package) or []
    return [Path(str(f.locate())).resolve() for f in listed if f.suffix != ".pyc"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    # x86 says "model name"; many ARM boards say "Model" or "Hardware"
    for key in ("model name", "Model", "Hardware"):
        named = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None
