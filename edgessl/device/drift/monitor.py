"""Drift without labels: one monitor of embeddings, input statistics and loss. docs/drift.md has the measurements."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.compensation import Displacement
from edgessl.device.drift.contexts import Contexts
from edgessl.device.drift.statistics import Scale
from edgessl.device.drift.tests import Cusum
from edgessl.device.drift.windows import WindowTest
from edgessl.device.storage.tensors import Array

Float = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
SIGNALS = ("embedding", "distribution", "input", "loss")


class DriftMonitor:
    """Four signals, each compared with a reference that the first `warmup` samples of a context set.

    - embedding: how far an embedding lies from a slow running mean, in units of the usual spread, tested by CUSUM;
    - distribution: the latest 64 embeddings against 64 of the reference by energy distance;
    - input: `inputs` statistics of the raw sample, each tested by CUSUM;
    - loss: of the training steps, tested by CUSUM, rising only.

    Events in quick succession (within 4 `warmup` samples) say that samples come in bursts of equals, as activities do,
    for which no reference of 64 neighbours stands. Then every second sample is passed over, every fourth after the
    next such event, at most 15 of 16 (`stride`); a long quiet time (64 `warmup`) before an event takes one step back.

    Running means and spreads follow with rate `rate`. An event starts a new reference for all, so that the next
    change is seen from the new regime; when it is complete, it is compared with those of earlier contexts: `context`
    is the number of the present one (-1: not yet known), which is an old number when an old context has come back.
    """

    LOSSES = 16  # training losses before they are tested
    MOST_STRIDE = 16

    def __init__(self, dim: int, inputs: int = 0, warmup: int = 64, rate: float = 1 / 512) -> None:
        self.warmup, self.rate = warmup, rate
        self.by_signal = dict.fromkeys(SIGNALS, 0)
        self.last = ""  # the signal of the latest event
        self.context = -1
        self._test, self._window = Cusum(), WindowTest(dim)
        self._distance, self._mean = Scale(1, rate), np.zeros(dim, np.float64)
        self._inputs, self._input_test = Scale(inputs, rate), Cusum(max(inputs, 1))
        self._losses, self._loss_test = Scale(1, 1 / 64), Cusum()
        self._contexts = Contexts(dim)
        self._early = np.zeros((warmup, dim), np.float32)
        self._count = 0
        self.stride = 1
        self._seen = self._since = 0  # samples; those that counted since the last event

    @property
    def events(self) -> int:
        """Drift events so far, by whatever signal."""
        return sum(self.by_signal.values())

    @property
    def contexts(self) -> int:
        """Different contexts met so far."""
        return self._contexts.count

    def update(self, z: Float, statistics: Vector | None = None) -> bool:
        """Take embeddings (N, D) and input statistics (N, inputs) in order; True at a drift event in any row."""
        fired = False
        for i, row in enumerate(z):
            self._seen += 1
            if self._seen % self.stride == 0:
                self._since += 1
                fired |= self._one(row, None if statistics is None else statistics[i])
        return fired

    def learned(self, loss: float) -> bool:
        """Take the loss of a training step, or the mean of a few; True at a drift event."""
        fired = self._losses.count >= self.LOSSES and self._loss_test.update(max(self._losses.score(loss)[0], 0.0))
        if fired:
            self._event("loss")
        self._losses.update(loss)
        return fired

    def rebase(self, recent: Float, moved: Displacement | None = None) -> None:
        """The encoder has changed: make `recent` (N, D), recent samples embedded by it, the reference.

        `moved` carries over what cannot be embedded again. Accumulated evidence is kept. The reference stays while
        the first one is still being gathered.
        """
        if moved is not None:
            self._early[: self._count] = moved.apply(self._early[: self._count]) if self._count else 0
            self._contexts.move(moved)
        if self._count < self.warmup or len(recent) < 2:
            return
        if moved is not None:
            self._window.rebase(recent, moved)
        self._mean, distance = _distances(recent)
        self._distance.refer(distance.mean(), distance.var(ddof=1))

    def _one(self, z: Float, statistics: Vector | None) -> bool:
        if self._count < self.warmup:
            self._early[self._count] = z
            self._count += 1
            if statistics is not None:
                self._inputs.update(statistics)
            if self._count == self.warmup:
                self._begin()
            return False
        distance = float(np.linalg.norm(z - self._mean))
        fired = {
            "embedding": self._test.update(self._distance.score(distance)),
            "distribution": self._window.update(z),
            "input": statistics is not None and self._input_test.update(self._inputs.score(statistics)),
        }
        for signal, event in fired.items():
            if event:
                self._event(signal)
                return True
        self._mean += self.rate * (z - self._mean)
        self._distance.update(distance)
        if statistics is not None:
            self._inputs.update(statistics)
        return False

    def _begin(self) -> None:
        """The reference is complete."""
        self._mean, distances = _distances(self._early)
        self._distance.reset()
        for distance in distances:
            self._distance.update(distance)
        self._window.refer(self._early)
        self.context = self._contexts.enter(self._early)

    def _event(self, signal: str) -> None:
        self.by_signal[signal] += 1
        if self._since < 4 * self.warmup:
            self.stride = min(2 * self.stride, self.MOST_STRIDE)
        elif self._since > 64 * self.warmup:
            self.stride = max(self.stride // 2, 1)
        self._since = 0
        self.last, self.context, self._count = signal, -1, 0
        for scale in (self._inputs, self._losses):
            scale.reset()
        for test in (self._test, self._input_test, self._loss_test):
            test.reset()

    def _parts(self) -> dict[str, Cusum | WindowTest | Scale | Contexts]:
        return {
            "test": self._test,
            "window": self._window,
            "distance": self._distance,
            "inputs": self._inputs,
            "input_test": self._input_test,
            "losses": self._losses,
            "loss_test": self._loss_test,
            "contexts": self._contexts,
        }

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        last = SIGNALS.index(self.last) if self.last else -1
        return {
            "mean": self._mean,
            "early": self._early[: self._count] if self._count < self.warmup else self._early[:0],
            "counts": np.array([self._count, self.context, last, *self.by_signal.values()], np.int64),
            "pace": np.array([self.stride, self._seen, self._since], np.int64),
            **{f"{part}.{name}": v for part, p in self._parts().items() for name, v in p.tensors().items()},
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._count, self.context, last, *events = (int(v) for v in tensors["counts"])
        self.last = SIGNALS[last] if last >= 0 else ""
        self.by_signal = dict(zip(SIGNALS, events, strict=True))
        self.stride, self._seen, self._since = (int(v) for v in tensors["pace"])
        self._mean = np.array(tensors["mean"], np.float64)
        self._early[: len(tensors["early"])] = tensors["early"]
        for part, p in self._parts().items():
            p.restore({k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")})


def _distances(z: Float) -> tuple[Vector, Vector]:
    """Mean of `z` (N, D), and the distances to it (N,)."""
    mean = z.astype(np.float64).mean(0)
    # Each sample pulls the mean towards itself; leaving it out of its own mean undoes that.
    return mean, np.linalg.norm(z - mean, axis=1) * len(z) / (len(z) - 1)
