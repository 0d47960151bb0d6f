"""Prototypes that grow with novelty: a read-out that goes on learning without replay, in one plastic connection.

    prototypes = Prototypes(n_features=128, capacity=64)
    prototypes.observe(features)                 # (n,) floats >= 0, e.g. mean spikes: no label, a prototype moves
    prototypes.observe(features, "seven")        # a label names the prototype, or splits it off where it clashes
    prototypes.classify(features)                # "seven", or None where the nearest prototype has no name

CLP-SNN (Hajizada et al., arXiv 2511.01553) and Lava's CLP blocks: the winner moves by w <- w + a (x - w s), s the
similarity, a = 1 / g with g counting the samples a prototype stands for; where no prototype is near, a free one is
taken. Here the change is two products of Loihi 2's engine, gated by the winner, on graded spikes; finding the winner
and counting g is left to the host, as the embedded processor would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.populations import Graded, Input, check_range
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import Simulator

Array = np.ndarray[Any, np.dtype[Any]]
TOP = 254  # largest payload; the trace x1 takes half of it, weights settle at it
# the decay first: the engine saturates at 15 bits after each product, and a large weight would lose its gain
RULE = "-2^-2*y0*w*y2 + 2^-2*y0*x0*x1*y1"
"""Shifted right by 5 and 4 bits: dw = (2 x1 y1 - w y2) / 128 with y1 = 128 a, y2 = 128 a s, so w settles at x / s.

The factor x0 is needed: a feature of 0 sends no spike, and its trace x1 still stands at what an earlier sample sent.
"""


class Prototypes:
    """Nearest prototypes by cosine, learned online in integers by the simulator itself.

    Args:
        n_features: length of a feature vector.
        capacity: prototypes at most; all are allocated at once.
        novelty: a sample whose cosine to every prototype is below this takes a new one, in 0..1.
        slowest: g stops here, so that a prototype never stops following, 1..127.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, n_features: int, capacity: int, *, novelty: float = 0.8, slowest: int = 64) -> None:
        check_range("n_features", n_features, 1, 1 << 16, "it is the length of a feature vector")
        check_range("capacity", capacity, 1, 1 << 16, "it is a number of prototypes")
        check_range("slowest", slowest, 1, 127, "the learning rate has 7 bits")
        if not 0 <= novelty <= 1:
            raise ConfigError(f"novelty must be in 0..1, a cosine, found {novelty}")
        self.n_features, self.capacity, self.novelty, self.slowest = n_features, capacity, novelty, slowest
        self.network = _network(n_features, capacity)
        self._simulator = Simulator(self.network)
        self.counts = np.zeros(capacity, np.int64)  # g; 0: free
        self.owner = np.full(capacity, -1, np.int64)  # index into labels; -1: no name
        self.labels: list[str] = []

    def __len__(self) -> int:
        """Prototypes in use."""
        return int((self.counts > 0).sum())

    @property
    def weights(self) -> Array:
        """(capacity, n_features) int16."""
        return self._simulator.weights("match")[0]

    def similarity(self, features: Array) -> Array:
        """Cosine to every prototype in use, (N, len(self)) float64 of a batch, (len(self),) of one sample.

        Raises:
            InputError: features do not fit.
        """
        x = self._integers(features)
        used = self.weights[self.counts > 0].astype(np.int64)
        norms = np.linalg.norm(x, axis=-1, keepdims=True) * np.linalg.norm(used, axis=1)
        found: Array = (x @ used.T) / np.maximum(norms, 1e-12)
        return found

    def label_similarity(self, features: Array) -> Array:
        """Cosine to the nearest prototype of each label, (N, len(labels)) float64 of a batch (N, n_features)."""
        similarity, owners = self.similarity(features), self.owner[self.counts > 0]
        return np.stack([similarity[:, owners == k].max(1, initial=-1.0) for k in range(len(self.labels))], 1)

    def observe(self, features: Array, label: str | None = None) -> int:
        """Learn from one sample; returns the index of the prototype that moved.

        Without a label the nearest prototype moves, or a new one is taken where none is near. A label names a nameless
        winner; where the winner bears another name, the nearest of its own name moves if it is near enough, else a new
        prototype is taken.

        Raises:
            InputError: features do not fit, or there is nothing in them.
            BudgetError: a new prototype is needed for a label and none is free; a sample without one then moves the
                nearest instead.
        """
        x = self._integers(features)
        if x.ndim != 1 or not x.any():
            raise InputError(f"one sample with a feature above 0 is needed, found shape {np.shape(features)}")
        cosines = np.full(self.capacity, -1.0)
        cosines[self.counts > 0] = self.similarity(features)
        owner = -1 if label is None else self._label(label)
        allowed = (self.counts > 0) & (np.ones(self.capacity, bool) if label is None else self._free_for(owner))
        best = int(np.where(allowed, cosines, -2.0).argmax())
        if not allowed.any() or cosines[best] < self.novelty:
            if (self.counts == 0).any():
                best = int(self.counts.argmin())
            elif not allowed.any():
                raise BudgetError(f"all {self.capacity} prototypes bear other labels; give a larger capacity")
        self._move(best, x)
        if owner >= 0:
            self.owner[best] = owner
        return best

    def follow(self, features: Array) -> bool:
        """Move the nearest prototype towards one sample where it is near enough; whether it was. None is taken anew."""
        x = self._integers(features)
        if not len(self) or not x.any():
            return False
        cosines = self.similarity(features)
        if cosines.max() < self.novelty:
            return False
        self._move(int(np.flatnonzero(self.counts > 0)[cosines.argmax()]), x)
        return True

    def classify(self, features: Array) -> str | list[str | None] | None:
        """The name of the nearest prototype; None where it has none. A list for a batch.

        Raises:
            InputError: features do not fit, or nothing was observed yet.
        """
        if not len(self):
            raise InputError("no prototype yet; call observe first")
        owners = self.owner[self.counts > 0]
        nearest = owners[np.atleast_2d(self.similarity(features)).argmax(1)]
        names = [self.labels[i] if i >= 0 else None for i in nearest]
        return names if np.ndim(features) == 2 else names[0]

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides `labels`."""
        state = {f"simulator.{name}": array for name, array in self._simulator.state().items()}
        return {**state, "counts": self.counts, "owner": self.owner}

    def restore(self, tensors: Mapping[str, Array], labels: list[str]) -> None:
        """Become what was saved.

        Raises:
            StateMismatchError: capacity or features were others; nothing was changed.
        """
        if tensors["counts"].shape != self.counts.shape:
            raise StateMismatchError(f"{len(tensors['counts'])} prototypes were saved, here are {self.capacity}")
        self._simulator.restore(
            {k.removeprefix("simulator."): v for k, v in tensors.items() if k.startswith("simulator.")}
        )
        self.counts, self.owner = tensors["counts"].copy(), tensors["owner"].copy()
        self.labels = list(labels)

    def _label(self, label: str) -> int:
        if label not in self.labels:
            self.labels.append(label)
        return self.labels.index(label)

    def _free_for(self, owner: int) -> Array:
        found: Array = (self.owner == owner) | (self.owner < 0)
        return found

    def _move(self, index: int, x: Array) -> None:
        """One step of the simulator: the features again, with the winner as the gate and its rate as the modulators."""
        weights = self.weights[index].astype(np.int64)
        g = min(int(self.counts[index]) + 1, self.slowest)
        rate = min(round(128 / g), 127)
        similarity = float(weights @ x) / float(x @ x) if g > 1 else 1.0
        gate, y1, y2 = (np.zeros((1, 1, self.capacity), np.int32) for _ in range(3))
        gate[..., index], y1[..., index] = 1, rate
        y2[..., index] = np.clip(round(rate * similarity), 0, 127)
        given = {"features": x[None, None].astype(np.int32), "winner": gate, "gain": y1, "loss": y2}
        self._simulator.run(given, spikes=False)
        self.counts[index] += 1

    def _integers(self, features: Array) -> Array:
        """Features as payloads, every sample of the same length; what exceeds TOP is cut."""
        x = np.asarray(features, np.float64)
        if x.ndim not in (1, 2) or x.shape[-1] != self.n_features:
            raise InputError(f"features must be ({self.n_features},) or (N, {self.n_features}), found {x.shape}")
        if not np.isfinite(x).all() or x.min(initial=0) < 0:
            raise InputError("features must be finite and 0 or more, such as mean spikes; shift or rectify them")
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        scaled = x / np.maximum(length, 1e-12) * self._length
        found: Array = np.round(np.minimum(scaled, TOP)).astype(np.int64)
        return found

    @property
    def _length(self) -> float:
        """Euclidean length of every integer sample: that of equal features at an eighth of TOP, and at least TOP."""
        return max(TOP, TOP / 8 * self.n_features**0.5)


def _network(n_features: int, capacity: int) -> IntegerNetwork:
    rule = LearningRule(RULE, x1_tau=65535, graded="overwrite", three_factor=True)
    match = Connection(
        "match", "features", "similarity", np.zeros((capacity, n_features), np.int16), -7, sign="mixed", payload_bits=8,
        rule=rule, modulators={"y0": "winner", "y1": "gain", "y2": "loss"},
    )  # fmt: skip
    inputs = [
        Input("features", n_features, 8),
        Input("winner", capacity),
        Input("gain", capacity, 7),
        Input("loss", capacity, 7),
    ]
    return IntegerNetwork(
        inputs, [Graded("similarity", capacity, vth=0, relu=True)], [match], {"made_by": "neuromorphic.prototypes"}
    )
