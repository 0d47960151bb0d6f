"""What `edgessl stream` does with a learner and a source: observe, learn, save, stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgessl.cli.stream_display import Display
from edgessl.data.source import Source
from edgessl.device import Learner
from edgessl.device.heads.novelty import LEAST
from edgessl.errors import DataError

BLOCK = 32  # samples embedded at a time


@dataclass(frozen=True)
class Rhythm:
    """How often a stream learns and saves: counts of samples, steps and seconds."""

    learn_every: int
    steps_per_learn: int
    max_seconds: float | None
    save_every: int

    def pause_after(self, observed: int) -> int:
        """How many samples go by before something is due or BLOCK are full."""
        due = [every - observed % every for every in (self.learn_every, self.save_every)]
        return min(BLOCK, *due)


def drive(
    learner: Learner, source: Source, first: int, last: int, rhythm: Rhythm, display: Display, stopped: list[int]
) -> None:
    """Take samples `first` to `last` in order until done or told to stop; what was learned is saved either way."""
    position = first
    while position < last and not stopped:
        count = min(rhythm.pause_after(learner.metrics()["observed"]), last - position)
        try:
            samples = source.take(np.arange(position, position + count))
        except DataError:
            learner.save()  # a bad sample must not cost what the good ones taught
            raise
        known = learner.metrics()["remembered"] >= LEAST
        novelty = learner.novelty(samples) if known else np.zeros(0)
        learner.observe(samples)
        position += count
        observed = learner.metrics()["observed"]
        display.observed(position, novelty)
        if rhythm.steps_per_learn and observed % rhythm.learn_every == 0:
            display.learned(learner.learn(rhythm.max_seconds, rhythm.steps_per_learn))
        if observed % rhythm.save_every == 0 or position == last:
            learner.save()
        display.refresh()
    if stopped and position < last:
        learner.save()
        display.refresh()
