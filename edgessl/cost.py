"""What a pretraining run costs: time, waiting for data, memory, energy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from edgessl.energy import EnergyMeter, add_reports
from edgessl.machine import peak_rss_mb
from edgessl.reader import Reader


class RunCost:
    """Adds up the cost of a run, on top of what the stretches before a resumption cost.

    Args:
        before: the provenance so far.
        reader: knows how long the run waited.
        device: where it computes.
        grid_g_per_kwh: see `edgessl.energy.EnergyMeter`.
    """

    def __init__(self, before: Mapping[str, Any], reader: Reader, device: torch.device, grid_g_per_kwh: float) -> None:
        self._before, self._reader, self._device = dict(before), reader, device
        self._computing_s = 0.0
        gpu = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            gpu = str(torch.cuda.get_device_properties(device).uuid)
        self._energy = EnergyMeter(gpu, grid_g_per_kwh=grid_g_per_kwh)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count what happens within as computing; launches that a GPU works off later count where they are awaited."""
        began = time.perf_counter()
        yield
        self._computing_s += time.perf_counter() - began

    def sample(self) -> None:
        """To be called every few minutes at least: energy counters turn over."""
        self._energy.sample()

    def provenance(self) -> dict[str, Any]:
        """The provenance with the cost in it."""
        earlier_s = self._before.get("seconds", 0.0)
        waited_s = self._reader.waited + earlier_s * self._before.get("input_wait_share", 0.0)
        seconds = earlier_s + self._reader.waited + self._computing_s
        found: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "input_wait_share": round(waited_s / max(seconds, 1e-9), 6),
            "peak_rss_mb": round(max(peak_rss_mb(), self._before.get("peak_rss_mb", 0.0)), 1),
        }
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / 1e6
            found["peak_gpu_mb"] = round(max(peak, self._before.get("peak_gpu_mb", 0.0)), 1)
        energy = self._energy.report()
        found["energy"] = add_reports(self._before["energy"], energy) if "energy" in self._before else energy
        return {**self._before, **found}
