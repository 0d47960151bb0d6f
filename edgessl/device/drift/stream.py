"""A stream of drifting classes, answered sample by sample: each is labelled before anything is learnt from it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.classes import DriftingClasses, Voters
from edgessl.device.drift.normalize import RunningNormalization
from edgessl.device.heads.softmax_regression import SoftmaxRegression
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError, StateMismatchError

Matrix = npt.NDArray[np.float64]
INVERSE_PENALTY = 0.01  # of the classifier behind the running normalisation
LEAST = 64  # samples of a session before its classes are looked for
GROWTH = 1.25  # of the session between two looks
TRUST = 0.8  # see DriftingClasses.fit


class DriftingStream:
    """Labels a stream in sessions (months, power cycles), with labels from the first session only.

    A logistic regression of the labelled session reads the input through a `RunningNormalization` whose mean is
    corrected for the classes it believes it saw. When a session ends, `DriftingClasses` finds the classes among at most
    `capacity` of its samples (a reservoir), and the normalisation starts the next session from there.

    With `mixed`, samples of all classes are expected to come in mixed order; the classes are then looked for within the
    session too, whenever it has grown by a quarter, and label what follows. Leave it off where recordings are sorted:
    the classes seen so far say nothing about the next.
    """

    def __init__(
        self,
        x: npt.NDArray[np.floating],
        labels: npt.NDArray[np.int64],
        *,
        group: int = 1,
        mixed: bool = False,
        seed: int = 0,
        capacity: int = 512,
    ) -> None:
        """Learn the labelled session: x (M, D), labels (M,), group and seed as in DriftingClasses.

        Raises InputError and ConfigError as that does, ConfigError for a capacity below LEAST.
        """
        if capacity < LEAST:
            raise ConfigError(f"capacity is {capacity}; give {LEAST} samples or more")
        wide = np.asarray(x, np.float64)
        self._found = DriftingClasses(wide, labels, group=group, seed=seed, restarts=24, kept=6)
        self._normalize = RunningNormalization(wide, labels)
        self._classifier = SoftmaxRegression.fit(self._normalize(wide), labels, self._found.classes, INVERSE_PENALTY)
        self._mixed, self._seed = mixed, seed
        self._memory = np.zeros((capacity, wide.shape[1]))
        self._seen, self._looked = 0, 0
        self._voters: Voters | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the session's memory, allocated once."""
        return self._memory.nbytes

    def observe(self, x: npt.NDArray[np.floating]) -> Matrix:
        """Probabilities of the classes (K,) for one sample (D,), from what came before it; then learn from it."""
        sample = np.asarray(x, np.float64)
        read = self._classifier.probabilities(self._normalize(sample)[None])[0]
        answer = read if self._voters is None else self._voters.probabilities(self._found.standard(sample[None]))[0]
        self._normalize.update(sample, read)
        self._remember(sample)
        if self._mixed and self._seen >= max(LEAST, GROWTH * self._looked):
            self._look()
        return answer

    def end_session(self) -> None:
        """Take over what the session taught; the next sample belongs to another. Fewer than LEAST samples: nothing."""
        if self._seen >= LEAST:
            self._found.adapt(self._past())
            self._normalize.settle(self._found.located)
        self._normalize.new_session()
        self._seen, self._looked, self._voters = 0, 0, None

    def _look(self) -> None:
        self._voters = self._found.fit(self._found.standard(self._past()), TRUST)
        self._looked = self._seen

    def _past(self) -> Matrix:
        return self._memory[: min(self._seen, len(self._memory))]

    def _remember(self, sample: Matrix) -> None:
        """Vitter's reservoir, algorithm R (1985)."""
        place = self._seen
        if place >= len(self._memory):
            rng = np.random.default_rng([self._seed, self._found.sessions, self._seen])
            place = int(rng.integers(self._seen + 1))
        if place < len(self._memory):
            self._memory[place] = sample
        self._seen += 1

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides the labelled session; the classes looked for are looked for again."""
        return {
            "memory": self._past(),
            "seen": np.array([self._seen, self._looked], np.int64),
            **{f"classes.{k}": v for k, v in self._found.tensors().items()},
            **{f"normalize.{k}": v for k, v in self._normalize.tensors().items()},
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described, but for labels until the next look; StateMismatchError for other sizes."""
        memory = tensors["memory"]
        if len(memory) > len(self._memory) or memory.shape[1:] != self._memory.shape[1:]:
            raise StateMismatchError(f"a session of {memory.shape} was saved, here is room for {self._memory.shape}")
        self._found.restore({k[8:]: v for k, v in tensors.items() if k.startswith("classes.")})
        self._normalize.restore({k[10:]: v for k, v in tensors.items() if k.startswith("normalize.")})
        self._memory[: len(memory)] = memory
        self._seen, looked = (int(v) for v in tensors["seen"])
        self._voters, self._looked = None, 0
        if looked:
            self._look()
