"""Input normalisation that follows a drifting sensor without chasing the classes that happen to be shown."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError, InputError, StateMismatchError

Matrix = npt.NDArray[np.float64]


class RunningNormalization:
    """`(x - mean) / std` per feature, the mean re-estimated from a stream, the std as it was measured at first.

    A running mean of a stream sorted by class follows the class: it takes what makes the class different for drift.
    Here each sample counts as it differs from what its class should look like: the mean moves by
    `(x - sum_k p_k c_k) / n`, with `p` the probabilities of the classes for this sample, by whatever classifier uses
    the normalised input, and `c_k` the class means of the reference, carried along. Were all `p` right, the estimate
    would be that of the shift that all classes share, whatever the mixture of classes (covariate shift without prior
    shift; soft assignments as in expectation maximisation, Dempster et al. 1977). With `p` None it is the plain
    running mean.

    n starts at `prior_count`, which is how many samples the estimate before is worth, and grows by one a sample;
    `new_session` (after a pause, or when drift was detected) starts it again.
    """

    def __init__(
        self, reference: Matrix, labels: npt.NDArray[np.int64] | None = None, prior_count: float = 800
    ) -> None:
        """`reference` (M, D), of which `labels` (M,) are 0 to K - 1; None: only the plain running mean.

        Raises ConfigError for a `prior_count` below 1.
        """
        if not prior_count >= 1:
            raise ConfigError(f"prior_count is {prior_count}; give 1 or more")
        self.mean, self.std = reference.mean(0), spread(reference)
        self._prior = self._count = float(prior_count)
        self._classes: Matrix | None = None  # class means, normalised
        if labels is not None:
            means = np.stack([reference[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
            self._classes = (means - self.mean) / self.std
            self._middle = self._classes.mean(0)  # the mean of the classes, seen from that of the samples

    def __call__(self, x: Matrix) -> Matrix:
        """Normalise (N, D) or (D,)."""
        return np.asarray((x - self.mean) / self.std)

    def new_session(self) -> None:
        """What comes may have shifted: the estimate so far counts as `prior_count` samples."""
        self._count = self._prior

    def update(self, x: Matrix, probabilities: Matrix | None = None) -> None:
        """Take one sample (D,) and the probabilities (K,) of its classes.

        Raises InputError when probabilities are given and the reference had no labels, or another number of classes.
        """
        self._count += 1
        expected = self.mean
        if probabilities is not None:
            if self._classes is None or len(probabilities) != len(self._classes):
                known = 0 if self._classes is None else len(self._classes)
                raise InputError(
                    f"normalisation: {len(probabilities)} probabilities, the reference has {known} classes"
                )
            expected = self.mean + (probabilities @ self._classes) * self.std
        self.mean = self.mean + (x - expected) / self._count

    def settle(self, means: Matrix) -> None:
        """A session is over and its class means (K, D) are known better: they and their common shift are taken over."""
        if self._classes is None or means.shape != self._classes.shape:
            raise InputError(f"normalisation: class means {means.shape} do not fit the reference")
        self.mean = means.mean(0) - self._middle * self.std
        self._classes = (means - self.mean) / self.std

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides the reference."""
        classes = np.zeros((0, len(self.mean))) if self._classes is None else self._classes
        return {"mean": self.mean, "classes": classes, "count": np.array([self._count], np.float64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described; StateMismatchError for another number of features."""
        if tensors["mean"].shape != self.mean.shape:
            raise StateMismatchError(f"normalisation of {tensors['mean'].shape} was saved, this is {self.mean.shape}")
        self.mean, self._count = np.array(tensors["mean"], np.float64), float(tensors["count"][0])
        if self._classes is not None:
            self._classes = np.array(tensors["classes"], np.float64)


def spread(x: Matrix) -> Matrix:
    """Standard deviation per feature (D,) of (N, D); 1 where a feature does not vary, so that it is only shifted."""
    std = x.std(0)
    return np.where(std > 1e-9 * np.maximum(1, np.abs(x.mean(0))), std, 1.0)
