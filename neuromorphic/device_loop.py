"""Local learning within a budget: present the oldest pending sample, watch the firing rate, stop in time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from edgessl.device.loop import LearnReport
from edgessl.errors import InputError
from neuromorphic.device_settings import WATCHED, Pending, Settings
from neuromorphic.plastic_engine import PlasticEngine
from neuromorphic.prototypes import Prototypes


class SpikingLoop:
    """Presents samples of `pending` to `engine`, each once; the nearest prototype of `readout` follows.

    Attributes:
        steps, rejected: samples learned from, and of those that were undone.
        rates: mean firing rates of the latest WATCHED samples; outside `settings.rates` on average, `roll_back` is
            called, which returns the generation it returned to.
    """

    def __init__(
        self,
        engine: PlasticEngine,
        pending: Pending,
        readout: Prototypes,
        settings: Settings,
        roll_back: Callable[[], int],
    ) -> None:
        self._engine, self._pending, self._readout = engine, pending, readout
        self._settings, self._roll_back = settings, roll_back
        self.rates: deque[float] = deque(maxlen=WATCHED)
        self.steps = self.rejected = 0

    def run(self, max_seconds: float | None, max_steps: int | None) -> LearnReport:
        """Step until a limit is reached, nothing is pending, or the rate calls for a rollback.

        Raises:
            InputError: no limit, or one below 0.
        """
        limits = [limit for limit in (max_seconds, max_steps) if limit is not None]
        if not limits or min(limits) < 0 or any(math.isnan(limit) for limit in limits):
            raise InputError(f"learn: give max_seconds or max_steps, 0 or more; found {max_seconds}, {max_steps}")
        began, done, longest = time.perf_counter(), 0, 0.0
        sums: dict[str, float] = {}
        stopped = "nothing is pending; observe more"
        while self._pending:
            now = time.perf_counter()
            if max_steps is not None and done >= max_steps:
                stopped = f"max_steps = {max_steps} reached"
                break
            if max_seconds is not None and now - began + longest > max_seconds:
                stopped = f"max_seconds = {max_seconds} reached"
                break
            metrics = self._one()
            done += 1
            longest = max(longest, time.perf_counter() - now)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
            if reason := self._harm():
                self.rejected, self.steps = self.rejected + done, self.steps - done
                generation = self._roll_back()
                return LearnReport(0, done, generation, time.perf_counter() - began, {}, f"rolled back: {reason}")
        means = {name: value / done for name, value in sums.items()}
        return LearnReport(done, 0, None, time.perf_counter() - began, means, stopped)

    def _one(self) -> dict[str, float]:
        spikes, goes_on = self._pending.take()
        metrics = self._engine.present(spikes, goes_on)
        self.steps += 1
        self.rates.append(metrics["rate"])
        if len(self._readout):
            self._readout.follow(self._engine.embed(spikes[None], self._settings.bins)[0])
        return metrics

    def _harm(self) -> str:
        """Why learning should be undone; "" for no reason."""
        if len(self.rates) < WATCHED:
            return ""
        mean, (low, high) = float(np.mean(self.rates)), self._settings.rates
        if low <= mean <= high:
            return ""
        return f"{self._settings.population} fires at {mean:.3g} per step, outside {low:g}..{high:g}"
