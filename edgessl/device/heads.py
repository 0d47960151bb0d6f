"""A classifier from a few labelled samples, which follows the encoder as it learns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.novelty import unit
from edgessl.device.tensors import Array
from edgessl.errors import BudgetError, InputError, StateMismatchError

Float = npt.NDArray[np.float32]
TEMPERATURE = 0.1
PER_LABEL = 16
MAX_LABEL = 64


@dataclass(frozen=True)
class Prediction:
    """`confidence`: softmax over the labels; `similarity`: cosine to the label's prototype, in [-1, 1]."""

    label: str
    confidence: float
    similarity: float


class FewLabelHead:
    """Nearest class mean on the unit sphere over raw exemplars, re-embedded when the encoder has changed.

    Snell et al., "Prototypical networks for few-shot learning", NeurIPS 2017; keeping exemplars instead of
    prototypes as in iCaRL (Rebuffi et al., CVPR 2017), since old prototypes lose their meaning in a new
    embedding. At most PER_LABEL exemplars per label and `capacity_bytes` in all, allocated once; the oldest
    of the label (when it is full) or of the best covered label (when all room is taken) makes way.
    """

    def __init__(self, capacity_bytes: int, sample_shape: tuple[int, ...], embed: Callable[[Float], Float]) -> None:
        size = 4 * math.prod(sample_shape)
        if capacity_bytes < size:
            raise BudgetError(f"exemplars: {capacity_bytes} bytes, one sample takes {size}; give that or more")
        self._embed = embed
        self._samples: Float = np.zeros((capacity_bytes // size, *sample_shape), np.float32)
        self._owner = np.full(len(self._samples), -1, np.int64)  # index into labels; -1: free
        self._age = np.zeros(len(self._samples), np.int64)
        self._clock = 0
        self.labels: list[str] = []
        self._prototypes: npt.NDArray[np.float64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes allocated for exemplars; never more than was declared."""
        return self._samples.nbytes

    def enroll(self, x: Float, label: str) -> None:
        """Remember sample `x` (sample_shape) as an example of `label` (1 to 64 printable characters).

        Raises InputError for another label, BudgetError when every exemplar is some label's last one.
        """
        if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL or not label.isprintable():
            raise InputError(f"label: expected 1 to {MAX_LABEL} printable characters, found {label!r}")
        owner = self.labels.index(label) if label in self.labels else len(self.labels)
        place = self._room(owner)
        if owner == len(self.labels):
            self.labels.append(label)
        self._samples[place], self._owner[place], self._age[place] = x, owner, self._clock
        self._clock += 1
        self._prototypes = None

    def _room(self, owner: int) -> int:
        counts = np.bincount(self._owner[self._owner >= 0], minlength=owner + 1)
        free = np.flatnonzero(self._owner < 0)
        if counts[owner] < PER_LABEL and len(free):
            return int(free[0])
        largest = int(counts.argmax())
        giver = owner if counts[owner] >= min(PER_LABEL, counts[largest]) else largest
        if giver != owner and counts[giver] <= 1:
            raise BudgetError(
                f"exemplars: {len(self._samples)} fit and each is its label's only one; "
                f"give exemplar_bytes of {self.nbytes + self.nbytes // len(self._samples)} or more"
            )
        owned = np.flatnonzero(self._owner == giver)
        return int(owned[self._age[owned].argmin()])

    def invalidate(self) -> None:
        """The encoder has changed: embed the exemplars again before the next use."""
        self._prototypes = None

    def classify(self, z: Float) -> list[Prediction]:
        """Predictions for embeddings (N, D); InputError before anything is enrolled.

        The confidence is a softmax over cosine similarities with temperature 0.1.
        """
        if not self.labels:
            raise InputError("nothing is enrolled yet; call enroll(x, label) first")
        if self._prototypes is None:
            used = np.flatnonzero(self._owner >= 0)
            exemplars = unit(self._embed(self._samples[used]))
            owners = self._owner[used]
            self._prototypes = unit(np.stack([exemplars[owners == k].mean(0) for k in range(len(self.labels))]))
        similarity = unit(z) @ self._prototypes.T
        weight = np.exp((similarity - similarity.max(1, keepdims=True)) / TEMPERATURE)
        confidence = weight / weight.sum(1, keepdims=True)
        best = similarity.argmax(1)
        return [
            Prediction(self.labels[k], float(confidence[i, k]), float(similarity[i, k])) for i, k in enumerate(best)
        ]

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides `labels`."""
        used = np.flatnonzero(self._owner >= 0)
        room = np.array([len(self._samples), self._clock], np.int64)
        return {
            "samples": self._samples[used],
            "owner": self._owner[used],
            "age": self._age[used],
            "room": room,
        }

    def restore(self, tensors: Mapping[str, Array], labels: Sequence[str]) -> None:
        """Become what was saved; StateMismatchError when there was room for another number of exemplars."""
        capacity, clock = (int(v) for v in tensors["room"])
        count = len(tensors["owner"])
        if capacity != len(self._samples):
            raise StateMismatchError(
                f"exemplars were saved with room for {capacity}, here is room for {len(self._samples)}; "
                "open it with the exemplar_bytes it was saved with"
            )
        self._owner[:] = -1
        self._samples[:count] = tensors["samples"]
        self._owner[:count], self._age[:count] = tensors["owner"], tensors["age"]
        self._clock, self.labels, self._prototypes = clock, list(labels), None
