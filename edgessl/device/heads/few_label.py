"""A classifier from a few labelled samples, which follows the encoder as it learns."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.compensation import Displacement
from edgessl.device.guard.examination import Probe
from edgessl.device.heads.classifiers import CLASSIFIERS, Classifier, NearestMean, rejection_threshold, softmax
from edgessl.device.storage.tensors import Array
from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError

Float = npt.NDArray[np.float32]
PER_LABEL = 16
MAX_LABEL = 64
UNKNOWN = "unknown"
PROBES = 8  # exemplars that say something together


@dataclass(frozen=True)
class Prediction:
    """`confidence`: softmax over the labels; `similarity`: cosine to what stands for the label, in [-1, 1].

    `label` is UNKNOWN where open-set rejection is on and nothing enrolled is similar enough; the two numbers are then
    those of the likeliest label.
    """

    label: str
    confidence: float
    similarity: float


class FewLabelHead:
    """A classifier of raw exemplars, which are embedded again when the encoder has changed.

    Exemplars instead of prototypes as in iCaRL (Rebuffi et al., CVPR 2017), since old prototypes lose their meaning
    in a new embedding. At most PER_LABEL exemplars per label and `capacity_bytes` in all, allocated once; the oldest
    of the label (when it is full) or of the best covered label (when all room is taken) makes way.

    `kind`: "ncm" nearest class mean, "knn", "slda" or "logistic" (heads.classifiers). `reject`: the share of familiar
    samples that may be answered UNKNOWN, 0 answers none so; see heads.classifiers.rejection_threshold. Neither is
    part of the state: a learner may be opened with others.
    """

    def __init__(
        self,
        capacity_bytes: int,
        sample_shape: tuple[int, ...],
        embed: Callable[[Float], Float],
        kind: str = "ncm",
        reject: float = 0.0,
    ) -> None:
        check_head(kind, reject, CLASSIFIERS)
        size = 4 * math.prod(sample_shape)
        if capacity_bytes < size:
            raise BudgetError(f"exemplars: {capacity_bytes} bytes, one sample takes {size}; give that or more")
        self._embed, self._kind, self._reject = embed, kind, reject
        self._samples: Float = np.zeros((capacity_bytes // size, *sample_shape), np.float32)
        self._owner = np.full(len(self._samples), -1, np.int64)  # index into labels; -1: free
        self._age = np.zeros(len(self._samples), np.int64)
        self._clock = 0
        self.labels: list[str] = []
        self._fitted: tuple[Classifier, float] | None = None  # and the threshold of rejection

    @property
    def nbytes(self) -> int:
        """Bytes allocated for exemplars; never more than was declared."""
        return self._samples.nbytes

    def enroll(self, x: Float, label: str) -> None:
        """Remember sample `x` (sample_shape) as an example of `label` (1 to 64 printable characters).

        Raises InputError for another label, BudgetError when every exemplar is some label's last one.
        """
        check_label(label, self._reject)
        owner = self.labels.index(label) if label in self.labels else len(self.labels)
        place = self._room(owner)
        if owner == len(self.labels):
            self.labels.append(label)
        self._samples[place], self._owner[place], self._age[place] = x, owner, self._clock
        self._clock += 1
        self._fitted = None

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

    def invalidate(self, moved: Displacement | None = None) -> None:
        """The encoder has changed: embed the exemplars again before the next use."""
        self._fitted = None

    def classify(self, z: Float) -> list[Prediction]:
        """Predictions for embeddings (N, D); InputError before anything is enrolled."""
        if not self.labels:
            raise InputError("nothing is enrolled yet; call enroll(x, label) first")
        if self._fitted is None:
            used = np.flatnonzero(self._owner >= 0)
            classifier = CLASSIFIERS[self._kind](self._embed(self._samples[used]).astype(np.float64), self._owner[used])
            self._fitted = classifier, rejection_threshold(classifier.leave_one_out(), self._reject)
        classifier, threshold = self._fitted
        wide = z.astype(np.float64)
        return answers(self.labels, classifier.logits(wide), classifier.similarity(wide), threshold)

    def probe(self, embed: Callable[[Float], Float]) -> Probe | None:
        """How many exemplars the means of the others recognise, embedded by `embed`; None of fewer than 8."""
        used = np.flatnonzero(self._owner >= 0)
        owners = self._owner[used]
        paired = np.bincount(owners, minlength=1)[owners] > 1
        if paired.sum() < PROBES or len(self.labels) < 2:
            return None
        similarity = NearestMean(embed(self._samples[used]).astype(np.float64), owners).without_own()
        right = similarity.argmax(1)[paired] == owners[paired]
        return Probe(int(right.sum()), int(paired.sum()), self._clock)

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
        if "room" not in tensors:
            raise StateMismatchError("prototypes without exemplars were saved; open it with exemplar_bytes=0")
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
        self._clock, self.labels, self._fitted = clock, list(labels), None


def answers(
    labels: Sequence[str], logits: npt.NDArray[np.float64], similarity: npt.NDArray[np.float64], threshold: float
) -> list[Prediction]:
    """The likeliest label of each row of `logits` (N, K), UNKNOWN where all its similarities are below `threshold`."""
    best, confidence, known = logits.argmax(1), softmax(logits), similarity.max(1) >= threshold
    return [
        Prediction(labels[k] if known[i] else UNKNOWN, float(confidence[i, k]), float(similarity[i, k]))
        for i, k in enumerate(best)
    ]


def check_label(label: str, reject: float) -> None:
    """InputError unless `label` is 1 to 64 printable characters, and no name for rejection where that is on."""
    if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL or not label.isprintable():
        raise InputError(f"label: expected 1 to {MAX_LABEL} printable characters, found {label!r}")
    if reject and label == UNKNOWN:
        raise InputError(
            f"label {UNKNOWN!r} is the answer to what is not enrolled; choose another, or open with reject=0"
        )


def check_head(kind: str, reject: float, kinds: Iterable[str]) -> None:
    """ConfigError for an unknown kind or a share of rejection outside [0, 0.5]."""
    if kind not in kinds:
        raise ConfigError(f"unknown head {kind!r}; choose one of {', '.join(kinds)}")
    if not 0 <= reject <= 0.5:
        raise ConfigError(f"reject: expected a share from 0 (never) to 0.5, found {reject}")
