"""Learning within a budget: draw a batch, step, let the guard judge, stop in time."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgessl.device.guard.collapse import Guard, Verdict
from edgessl.device.hyper import HyperParameters
from edgessl.device.memory.replay import ReplayMemory
from edgessl.device.noise import step_noise
from edgessl.device.runners import Trainer
from edgessl.device.storage.tensors import Array
from edgessl.errors import InputError


@dataclass(frozen=True)
class LearnReport:
    """What one `learn` did.

    `steps` kept, `rejected` steps taken back, `rolled_back_to` a generation (0: factory) or None; `metrics`:
    means over the kept steps; `seconds` for all of it; `stopped`: why it ended, in words.
    """

    steps: int
    rejected: int
    rolled_back_to: int | None
    seconds: float
    metrics: dict[str, float]
    stopped: str


class LearningLoop:
    """Steps of `runner` on batches from `memory`, judged by a guard.

    Attempt number t draws its batch and its noise from (seed, t), whatever became of the attempts before, so
    a rollback never repeats the step that made it necessary. `data` guards the memory against other threads.
    """

    def __init__(
        self,
        runner: Trainer,
        memory: ReplayMemory,
        hyper: HyperParameters,
        seed: int,
        data: threading.RLock,
        roll_back: Callable[[], int],
    ) -> None:
        self.attempts = self.steps = self.rejected = 0
        self.step_seconds = 0.0  # running estimate; 0: nothing measured in this process
        self._runner, self._memory, self._hyper, self._seed = runner, memory, hyper, seed
        self._data, self._roll_back = data, roll_back
        self._guard = Guard()

    def run(self, max_seconds: float | None, max_steps: int | None, sleep: bool = False) -> LearnReport:
        """Step until a limit is reached, the guard calls for a rollback, or at once when there is too little.

        `sleep`: on samples older than the latest alone. Raises InputError unless a limit is given.
        """
        limits = [v for v in (max_seconds, max_steps) if v is not None]
        if not limits or not all(v >= 0 for v in limits):
            raise InputError("learn: give max_seconds or max_steps (or both), not negative")
        began = time.perf_counter()
        deadline = began + max_seconds if max_seconds is not None else math.inf
        first, steps, rejected = self.attempts, self.steps, self.rejected
        sums: dict[str, float] = {}
        generation, stopped = None, self._too_little(sleep)
        while not stopped:
            if max_steps is not None and self.attempts - first >= max_steps:
                stopped = "max_steps reached"
            elif time.perf_counter() + self.step_seconds > deadline:
                stopped = f"max_seconds reached (a step takes about {self.step_seconds:.3g} s)"
            else:
                metrics, verdict, reason = self._step(sleep)
                if verdict is Verdict.KEEP:
                    sums = {name: sums.get(name, 0.0) + value for name, value in metrics.items()}
                elif verdict is Verdict.ROLL_BACK:
                    generation, stopped = self._roll_back(), f"rolled back: {reason}"
        if max_seconds and self.attempts == first:
            self.step_seconds *= 0.9  # one slow step (cold caches, a throttled core) must not end learning
        kept = self.steps - steps
        return LearnReport(
            steps=kept,
            rejected=self.rejected - rejected,
            rolled_back_to=generation,
            seconds=time.perf_counter() - began,
            metrics={name: total / kept for name, total in sums.items()},
            stopped=stopped,
        )

    def _too_little(self, sleep: bool) -> str:
        need = self._runner.manifest.batch_size
        with self._data:
            there = self._memory.older if sleep else len(self._memory)
        which = "older samples" if sleep else "samples"
        return "" if there >= need else f"{there} {which} remembered, a batch takes {need}; observe more first"

    def measure(self) -> None:
        """Take a step on zeros, twice, and take it back: how long one lasts is known before the first that counts."""
        manifest = self._runner.manifest
        batch = np.zeros((manifest.batch_size, *manifest.learned.shape), np.float32)
        stored = np.zeros((manifest.batch_size, manifest.embedding_dim), np.float32) if manifest.stores else None
        noise = np.zeros(manifest.noise_shape, np.float32)
        for _ in range(2):  # the first pays for allocations too
            began = time.perf_counter()
            self._runner.step(batch, noise, self._hyper, stored)
            self._runner.undo()
            self.step_seconds = time.perf_counter() - began

    def _step(self, sleep: bool) -> tuple[dict[str, float], Verdict, str]:
        manifest = self._runner.manifest
        began = time.perf_counter()
        with self._data:
            draw = (self._memory.sample_older if sleep else self._memory.sample)(manifest.batch_size, self.attempts)
        noise = step_noise(self._seed, self.attempts, manifest.noise_shape)
        self.attempts += 1
        metrics = self._runner.step(draw.samples, noise, self._hyper, draw.stored)
        verdict, reason = self._guard.judge(metrics)
        if verdict is Verdict.KEEP and not np.isfinite(self._runner.theta.numpy()).all():
            verdict, reason = Verdict.ROLL_BACK, "theta not finite"
        if verdict is Verdict.KEEP:
            self.steps += 1
        else:
            self.rejected += 1
            self._runner.undo()
        took = time.perf_counter() - began
        self.step_seconds = 0.7 * self.step_seconds + 0.3 * took if self.step_seconds else took
        return metrics, verdict, reason

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        counts = np.array([self.attempts, self.steps, self.rejected], np.int64)
        return {"counts": counts, **self._guard.tensors()}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self.attempts, self.steps, self.rejected = (int(v) for v in tensors["counts"])
        self._guard.restore(tensors)
