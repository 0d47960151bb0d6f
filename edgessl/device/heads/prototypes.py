"""A head without exemplars: prototypes that move with the encoder."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.compensation import Displacement
from edgessl.device.heads.classifiers import TEMPERATURE, LdaStatistics
from edgessl.device.heads.few_label import Prediction, answers, check_head, check_label
from edgessl.device.heads.novelty import unit
from edgessl.device.storage.tensors import Array
from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError

Float = npt.NDArray[np.float32]
MOST_LABELS = 256


class PrototypeHead:
    """Each label's mean direction and one covariance; no sample is kept, so nothing can be embedded again.

    When the encoder changes the means move as the remembered samples around them did (drift_compensation); the
    covariance stays. Worse than exemplars and smaller: 8 D bytes a label, and 8 D^2 once; at most 256 labels. Every
    enrolled sample counts, not the latest 16 only. `kind`: "ncm" or "slda" (Hayes & Kanan, 2020).
    """

    KINDS = ("ncm", "slda")
    nbytes = 0  # of exemplars

    def __init__(self, dim: int, embed: Callable[[Float], Float], kind: str = "ncm", reject: float = 0.0) -> None:
        check_head(kind, 0.0, self.KINDS)
        if reject:
            raise ConfigError("reject needs exemplars to set its threshold on; give exemplar_bytes, or reject=0")
        self._embed, self._kind = embed, kind
        self._statistics = LdaStatistics(dim)
        self._fitted: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
        self.labels: list[str] = []

    def enroll(self, x: Float, label: str) -> None:
        """Learn sample `x` as an example of `label`; InputError and BudgetError as FewLabelHead.enroll."""
        check_label(label, 0.0)
        owner = self.labels.index(label) if label in self.labels else len(self.labels)
        if owner == MOST_LABELS:
            raise BudgetError(f"prototypes: {MOST_LABELS} labels are enrolled and no more are kept")
        z = unit(self._embed(x[None]))[0]
        if owner == len(self.labels):
            self.labels.append(label)
        self._statistics.add(z, owner)
        self._fitted = None

    def invalidate(self, moved: Displacement | None = None) -> None:
        """The encoder has changed: the prototypes move along; without remembered samples (None) they stay."""
        if moved is not None and self.labels:
            self._statistics.means = moved.of_directions().apply(self._statistics.means)
        self._fitted = None

    def classify(self, z: Float) -> list[Prediction]:
        """Predictions for embeddings (N, D); InputError before anything is enrolled."""
        if not self.labels:
            raise InputError("nothing is enrolled yet; call enroll(x, label) first")
        similarity = unit(z) @ unit(self._statistics.means).T
        logits = similarity / TEMPERATURE
        if self._kind == "slda":
            self._fitted = self._fitted or self._statistics.fit()
            logits = unit(z) @ self._fitted[0].T + self._fitted[1]
        return answers(self.labels, logits, similarity, -np.inf)

    def probe(self, embed: Callable[[Float], Float]) -> None:
        """No exemplars, no probes."""

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides `labels`."""
        s = self._statistics
        return {"counts": s.counts, "means": s.means, "scatter": s.scatter}

    def restore(self, tensors: Mapping[str, Array], labels: Sequence[str]) -> None:
        """Become what was saved; StateMismatchError when exemplars were."""
        if "means" not in tensors:
            raise StateMismatchError("exemplars were saved; open it with the exemplar_bytes it was saved with")
        s, self.labels, self._fitted = self._statistics, list(labels), None
        s.counts, s.means = np.array(tensors["counts"]), np.array(tensors["means"])
        s.scatter = np.array(tensors["scatter"])
