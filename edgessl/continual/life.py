"""A device's life over a stream: observe a chunk, take a few steps, be judged when a context has passed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgessl.continual.judge import Judge, Verdict
from edgessl.continual.metrics import Summary, summarize
from edgessl.continual.streams import Budget, Stream
from edgessl.device import Learner, SessionProfile, step_noise
from edgessl.device.runners import Model

Array = np.ndarray[Any, np.dtype[Any]]
JOINT = 9  # tells the draws of joint training from all others


@dataclass
class Life:
    """What became of one run.

    `verdicts`: T + 1, the first before any learning; `positions`: samples that had passed; `drifts`: samples that had
    passed when the monitor fired; `metrics`: means over each chunk's steps, by name.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    drifts: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=dict)

    def matrix(self, kind: str) -> Array:
        """The accuracy matrix (T + 1, T) of one of `edgessl.continual.judge.KINDS`."""
        return np.stack([verdict[kind] for verdict in self.verdicts])

    def summary(self, kind: str) -> Summary:
        """The figures of `matrix(kind)`."""
        return summarize(self.matrix(kind), self.positions)


def live(learner: Learner, stream: Stream, budget: Budget, judge: Judge) -> Life:
    """Let `learner` live through `stream`: `budget.steps` training steps after every chunk.

    Nothing but samples reaches the learner. It is judged before the stream, whenever the last sample of a context has
    passed, and at the end.
    """
    life, ends = _begin(stream, judge, learner.embed)
    for samples in stream:
        learner.observe(samples)
        report = learner.learn(max_steps=budget.steps)
        for name, value in report.metrics.items():
            life.metrics[name].append(value)
        events = learner.metrics()["drift_events"] - len(life.drifts)
        life.drifts += [stream.position] * events
        _judge(life, ends, stream, judge, learner.embed)
    known = learner.metrics()
    life.counts = {name: int(known[name]) for name in ("steps", "rejected", "rollbacks", "remembered", "memory_bytes")}
    return life


def live_jointly(model: Model, samples: Array, stream: Stream, budget: Budget, judge: Judge, seed: int = 0) -> Life:
    """The reference: as many steps on batches drawn from all of the stream's `samples` at once, as if none had order.

    It is judged after as many steps as a device would have taken when each context has passed.
    """
    encoder, trainer = model.runners(SessionProfile())
    rng = np.random.default_rng([seed, JOINT])

    def embed(x: Array) -> Array:
        parts = [encoder.embed(trainer.theta, x[i : i + 256]) for i in range(0, len(x), 256)]
        return np.concatenate(parts)

    life, ends = _begin(stream, judge, embed)
    taken = 0
    for _ in stream:
        for _ in range(budget.steps):
            batch = samples[rng.choice(len(samples), budget.batch_size, replace=False)]
            noise = step_noise(seed, taken, model.manifest.noise_shape)
            for name, value in trainer.step(batch, noise, model.manifest.hyper).items():
                life.metrics[name].append(value)
            taken += 1
        _judge(life, ends, stream, judge, embed)
    life.counts = {"steps": taken, "remembered": len(samples), "memory_bytes": samples.nbytes}
    return life


def standstill(embed: Any, stream: Stream, judge: Judge) -> Life:
    """The reference of a network that never learns: one verdict, the same after every context."""
    verdict = judge.verdict(embed)
    ends = sorted(int(end) for end in stream.order.ends() if end > 0)
    return Life([verdict] * (len(ends) + 1), [0, *ends])


def _begin(stream: Stream, judge: Judge, embed: Any) -> tuple[Life, list[int]]:
    return Life([judge.verdict(embed)], [0]), sorted(int(end) for end in stream.order.ends() if end > 0)


def _judge(life: Life, ends: list[int], stream: Stream, judge: Judge, embed: Any) -> None:
    """One verdict for every context whose last sample came with this chunk."""
    while ends and ends[0] <= stream.position:
        life.positions.append(ends.pop(0))
        life.verdicts.append(judge.verdict(embed))
