"""Observing in one thread, learning in another: a sample never waits for a training step or for the disk."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgessl.device.learner import Learner
from edgessl.device.samples import Percept
from edgessl.device.scheduler import Scheduler
from edgessl.errors import ConfigError, EdgeSSLError, InputError, StateError

Float = npt.NDArray[np.float32]
MOST_CREDIT = 64.0  # training steps that samples can have earned and learning not yet spent
LEAST_CREDIT = 8.0  # steps earned before any is taken: what `learn` does after them costs about as much as one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """`embedding`: (D,) of one sample, (N, D) of a batch; `accepted`: whether it will be remembered."""

    embedding: Float
    accepted: bool


class BackgroundLearner:
    """A learner with a worker thread that remembers, learns and saves; any number of threads may observe.

    `observe` embeds in the caller's thread and puts the samples into a queue of at most `queue_samples`. What does
    not fit is dropped and counted (`when_full="drop"`), or waits up to `wait_seconds` for room ("wait"). A sample is
    remembered if and only if it was accepted; `close` remembers and saves all of them.

    `steps_per_sample`: training steps that each sample pays for, eight at a time; inf to learn without end. The worker
    learns `slice_seconds` at a time while the scheduler lets it, and saves every `save_seconds`. What fails (a full
    disk) is counted, logged and tried again. `settle_after`: samples remembered without a step after which it calls
    `Learner.settle`, a few hundred for a device that seldom learns; 0 for never, since that takes memory.

    The learner belongs to this object from now on: close this one, not it.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        queue_samples: int = 256,
        when_full: Literal["drop", "wait"] = "drop",
        wait_seconds: float = 1.0,
        steps_per_sample: float = 0.25,
        slice_seconds: float = 0.25,
        save_seconds: float = 300.0,
        settle_after: int = 0,
        scheduler: Scheduler | None = None,
    ) -> None:
        sizes = queue_samples >= 1 and steps_per_sample >= 0 and slice_seconds > 0 and settle_after >= 0
        if not sizes or when_full not in ("drop", "wait"):
            raise ConfigError(
                "background learner: expected queue_samples >= 1, when_full drop or wait, steps_per_sample >= 0, "
                "slice_seconds > 0, settle_after >= 0; found "
                f"{queue_samples}, {when_full!r}, {steps_per_sample}, {slice_seconds}, {settle_after}"
            )
        self.learner = learner
        self._capacity, self._wait = queue_samples, wait_seconds if when_full == "wait" else 0.0
        self._rate, self._slice, self._save_every = steps_per_sample, slice_seconds, save_seconds
        self._settle_after, self._unlearned = settle_after, 0  # samples remembered since the last step, or settling
        self._scheduler = scheduler or Scheduler()
        self._queue: deque[Percept] = deque()
        self._changed = threading.Condition()  # guards what follows
        self._queued = self._taken = self._accepted = self._dropped = 0
        self._closing = False
        self._credit = self._learning_seconds = 0.0
        self._saves = self._failures = 0
        self._obstacle = self._last_failure = ""
        self._dead: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgessl-background", daemon=True)
        self._thread.start()

    def observe(self, x: Float) -> Observed:
        """Embed one sample (*shape) or a batch (N, *shape) and queue it, whole or not at all; never waits for learning.

        Raises InputError as `Learner.observe` does (a batch larger than the queue too), StateError when closed.
        """
        percept = self.learner.perceive(x)
        embedding = percept.embedding
        count = len(percept.samples)
        if count > self._capacity:
            raise InputError(f"observe: {count} samples at once, the queue holds {self._capacity}; give fewer")
        with self._changed:
            self._alive()
            if self._wait:
                self._changed.wait_for(lambda: self._queued + count <= self._capacity or self._closing, self._wait)
                self._alive()
            accepted = self._queued + count <= self._capacity
            if accepted:
                self._queue.append(replace(percept, samples=percept.samples.copy()))  # `x` is the caller's
                self._queued += count
                self._accepted += count
                self._changed.notify_all()
            else:
                self._dropped += count
        return Observed(embedding, accepted)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything accepted so far is remembered; False when that took longer than `timeout` seconds."""
        with self._changed:
            target = self._accepted
            return self._changed.wait_for(lambda: self._taken >= target or self._dead is not None, timeout) and (
                self._dead is None
            )

    def metrics(self) -> dict[str, Any]:
        """`Learner.metrics` and the queue's counters; see metrics.json_line and metrics.prometheus."""
        with self._changed:
            own = {
                "accepted": self._accepted,
                "dropped": self._dropped,
                "queued": self._queued,
                "saves": self._saves,
                "failures": self._failures,
                "learning_seconds": self._learning_seconds,
                "not_learning": self._obstacle,
                "last_failure": self._last_failure,
            }
        return {**self.learner.metrics(), **own}

    def close(self, save: bool = True) -> None:
        """Remember what was accepted, save, end the worker and close the learner; may be called again.

        Raises StateError when the last save failed, the learner being closed all the same.
        """
        with self._changed:
            already, self._closing = self._closing, True
            self._changed.notify_all()
        self._thread.join()
        if already:
            return
        try:
            if self._dead is not None:
                raise StateError(f"the background worker failed: {self._dead!r}") from self._dead
            if save:
                self.learner.save()
        finally:
            self.learner.close()

    def __enter__(self) -> "BackgroundLearner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _alive(self) -> None:
        if self._dead is not None:
            raise StateError(f"the background worker failed: {self._dead!r}") from self._dead
        if self._closing:
            raise StateError("this background learner is closed")

    def _run(self) -> None:
        try:
            save_at = time.monotonic() + self._save_every
            while self._remember():
                self._learn()
                self._settle()
                if time.monotonic() >= save_at:
                    self._attempt(self._save)
                    save_at = time.monotonic() + self._save_every
        except BaseException as error:
            _log.exception("the background worker failed")
            with self._changed:
                self._dead = error
                self._changed.notify_all()

    def _remember(self) -> bool:
        """Take what is queued into the memory; wait a moment when there is nothing else to do. False: all is done."""
        with self._changed:
            busy = (self._credit >= LEAST_CREDIT or math.isinf(self._rate)) and not self._obstacle
            if not busy:
                self._changed.wait_for(lambda: self._queue or self._closing, self._slice)
            percepts, self._queue = list(self._queue), deque()
            done = self._closing and not percepts
        for percept in percepts:
            self.learner.remember(percept)
        count = sum(len(p.samples) for p in percepts)
        self._unlearned += count
        with self._changed:
            self._queued -= count
            self._taken += count
            self._credit = min(self._credit + self._rate * count if count else self._credit, MOST_CREDIT)
            self._changed.notify_all()
        return not done

    def _learn(self) -> None:
        with self._changed:
            steps = MOST_CREDIT if math.isinf(self._rate) else self._credit
            if steps < LEAST_CREDIT or self._closing:
                return
        self._obstacle = self._scheduler.obstacle()
        if not self._obstacle:
            self._attempt(lambda: self._steps(int(steps)))

    def _steps(self, most: int) -> None:
        before = self.learner.metrics()["attempts"]
        slow = self.learner.metrics()["step_seconds"] > self._slice  # then one step at a time
        report = self.learner.learn(max_seconds=None if slow else self._slice, max_steps=1 if slow else most)
        if tried := self.learner.metrics()["attempts"] - before:
            self._unlearned = 0
        self._scheduler.learned(report.seconds)
        with self._changed:
            self._learning_seconds += report.seconds
            self._credit = max(0.0, self._credit - tried)
            if not tried:
                self._obstacle = report.stopped

    def _settle(self) -> None:
        if self._settle_after and self._unlearned >= self._settle_after:
            self._unlearned = 0  # what fails is tried again after as many
            self._attempt(self.learner.settle)

    def _save(self) -> None:
        self.learner.save()
        with self._changed:
            self._saves += 1

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except EdgeSSLError as error:
            _log.warning("%s", error)
            with self._changed:
                self._failures += 1
                self._last_failure = str(error)
