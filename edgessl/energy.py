"""Energy and CO2 of a run: counters where the machine has readable ones, otherwise a stated assumption.

    meter = EnergyMeter()
    ...                       # work; `meter.sample()` now and then, since RAPL's counters wrap around
    meter.report()            # {"grade": "measured" | "estimated", "joules": ..., "co2_g": ..., ...}

Counters: RAPL under /sys/class/powercap for the processor and its memory, NVML for an NVIDIA GPU. Both count everything
that runs on the chip meanwhile, other programs included. Neither knows of fans, power supply or cooling.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgessl.errors import ConfigError

POWERCAP = Path("/sys/class/powercap")
CPU_WATTS = 5.0  # assumed per busy core: a server's 280 W for 64 cores is 4.4 W, a laptop's 28 W for 4 cores 7 W
GPU_WATTS = 300.0  # assumed while a run lasts; the board power of data-centre GPUs is 70 to 700 W
GRID_G_PER_KWH = 481.0
GRID_SOURCE = "world average of 2023, Ember (Global Electricity Review 2024)"
JOULES_PER_KWH = 3.6e6


class Counter(Protocol):
    """Something that adds up energy."""

    @property
    def how(self) -> str:
        """Its name, or what it assumes."""
        ...

    def joules(self) -> float:
        """Energy since a fixed moment."""
        ...


class RaplCounter:
    """One RAPL domain: microjoules in `energy_uj`, starting again from 0 above `max_energy_range_uj`.

    Call `joules` at least once per turn of the counter (a quarter of an hour at 250 W).

    Raises:
        OSError, ValueError: the domain cannot be read; many systems keep it for root.
    """

    how = "RAPL"

    def __init__(self, domain: Path) -> None:
        self._file = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text())
        self._last = int(self._file.read_text())
        self._total = 0

    def joules(self) -> float:
        """Joules since the counter was opened."""
        now = int(self._file.read_text())
        self._total += (now - self._last) % (self._range + 1)
        self._last = now
        return self._total / 1e6


class NvmlCounter:
    """An NVIDIA GPU's own energy counter (Volta and later), read through the driver's libnvidia-ml.

    Args:
        uuid: of the GPU, as torch's device properties give it.

    Raises:
        OSError: no driver, no such GPU, or it has no energy counter.
    """

    how = "NVML"

    def __init__(self, uuid: str) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        self._check(self._nvml.nvmlInit_v2())
        found = self._nvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{uuid.removeprefix('GPU-')}".encode(), ctypes.byref(self._handle)
        )
        self._check(found)
        self.joules()

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        millijoules = ctypes.c_ulonglong()
        self._check(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    def _check(self, status: int) -> None:
        if status:
            raise OSError(status, f"NVML answered with error {status}")


@dataclass(frozen=True)
class Assumed:
    """Watts times seconds, where nothing can be read."""

    watts: float
    seconds: Callable[[], float]
    how: str

    def joules(self) -> float:
        """Joules on the clock `seconds`."""
        return self.watts * self.seconds()


class EnergyMeter:
    """Adds up what a run uses from the moment of its creation.

    Args:
        gpu: the GPU's UUID as torch gives it; None for a run on the CPU.
        cpu_watts: per busy core, assumed where RAPL cannot be read.
        gpu_watts: assumed where NVML cannot be read.
        grid_g_per_kwh: grams of CO2 equivalent per kWh of the grid; `GRID_G_PER_KWH` is the world's.

    Raises:
        ConfigError: a number is negative.
    """

    def __init__(
        self,
        gpu: str | None = None,
        *,
        cpu_watts: float = CPU_WATTS,
        gpu_watts: float = GPU_WATTS,
        grid_g_per_kwh: float = GRID_G_PER_KWH,
        powercap: Path = POWERCAP,
    ) -> None:
        if min(cpu_watts, gpu_watts, grid_g_per_kwh) < 0:
            raise ConfigError("energy: watts and grid intensity are 0 or more")
        self._grid = grid_g_per_kwh
        self._counters: dict[str, list[Counter]] = {"cpu": _cpu_counters(powercap, cpu_watts)}
        if gpu is not None:
            self._counters["gpu"] = [_gpu_counter(gpu, gpu_watts)]
        self._began = {part: self._joules(part) for part in self._counters}

    def sample(self) -> None:
        """Read the counters, so that none turns over unseen; every few minutes is enough."""
        for part in self._counters:
            self._joules(part)

    def report(self) -> dict[str, Any]:
        """`joules`, `co2_g`, `grade` ("measured" only if every part is), `parts` (joules and how, by part),
        `grid_g_per_kwh` and `grid_source`."""
        parts = {
            part: {"joules": round(self._joules(part) - self._began[part], 3), "how": counters[0].how}
            for part, counters in self._counters.items()
        }
        return _report(parts, self._grid)

    def _joules(self, part: str) -> float:
        return sum(counter.joules() for counter in self._counters[part])


def add_reports(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The energy of two stretches of one run, priced by the later one's grid; its grade is the worse of the two."""
    parts = dict(a["parts"])
    for part, found in b["parts"].items():
        before = parts.get(part, {"joules": 0.0, "how": found["how"]})
        hows = dict.fromkeys([*before["how"].split("; "), found["how"]])
        parts[part] = {"joules": round(before["joules"] + found["joules"], 3), "how": "; ".join(hows)}
    return _report(parts, b["grid_g_per_kwh"])


def _report(parts: dict[str, dict[str, Any]], grid: float) -> dict[str, Any]:
    joules = sum(part["joules"] for part in parts.values())
    measured = all(how in ("RAPL", "NVML") for part in parts.values() for how in part["how"].split("; "))
    return {
        "grade": "measured" if measured else "estimated",
        "joules": round(joules, 3),
        "co2_g": joules / JOULES_PER_KWH * grid,
        "parts": parts,
        "grid_g_per_kwh": grid,
        "grid_source": GRID_SOURCE if grid == GRID_G_PER_KWH else "given",
    }


def _cpu_counters(powercap: Path, watts: float) -> list[Counter]:
    """Packages and their memory; cores and graphics are inside the package, and psys would count it twice."""
    counters: list[Counter] = []
    for domain in sorted(powercap.glob("intel-rapl:*")):
        try:
            if (domain / "name").read_text().strip().startswith(("package", "dram")):
                counters.append(RaplCounter(domain))
        except (OSError, ValueError):
            continue
    return counters or [Assumed(watts, time.process_time, f"{watts:g} W per busy core assumed")]


def _gpu_counter(uuid: str, watts: float) -> Counter:
    try:
        return NvmlCounter(uuid)
    except (OSError, AttributeError):  # no driver; a driver without this call
        return Assumed(watts, time.perf_counter, f"{watts:g} W while the run lasts assumed")
