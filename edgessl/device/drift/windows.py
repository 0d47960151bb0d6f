"""Are two samples of embeddings of one distribution? Energy distance and MMD, against what chance does."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.compensation import Displacement
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError

Float = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
KERNELS = ("energy", "gaussian")


def separation(x: Float, y: Float, kernel: str = "energy") -> float:
    """How far apart `x` (N, D) and `y` (M, D) lie, as a standard normal score: above 4 is no chance.

    The statistic is the squared maximum mean discrepancy with kernel -|a - b| ("energy": half the energy distance of
    Szekely & Rizzo, "Energy statistics", JSPI 2013) or exp(-|a - b|^2 / median) ("gaussian": Gretton et al., "A
    kernel two-sample test", JMLR 2012). If both are one sample it is a weighted sum of chi-squares, whose weights are
    the eigenvalues of the centred Gram matrix: its mean (exactly that over all permutations of the rows) and its
    degrees of freedom (sum of eigenvalues squared over sum of squares) need no eigenvalues, and the Wilson-Hilferty
    cube root makes it normal. About (N + M)^2 D multiplications.
    """
    gram = _gram(np.concatenate([x, y]), kernel)
    total = len(gram)
    weights = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    statistic = float(weights @ gram @ weights)
    centred = gram - gram.mean(0)
    centred -= centred.mean(1, keepdims=True)
    trace, squares = float(np.trace(centred)), float((centred**2).sum())
    if squares <= 1e-24:
        return 0.0  # all rows are equal
    expected = (1 / len(x) + 1 / len(y)) * trace / (total - 1)
    variance = 2 / 9 * squares / trace**2
    return float((np.cbrt(statistic / expected) - 1 + variance) / variance**0.5)


def _gram(rows: Float, kernel: str) -> Matrix:
    wide = rows.astype(np.float64)
    wide -= wide.mean(0)  # less cancellation below
    norms = (wide**2).sum(1)
    squares = np.maximum(norms[:, None] + norms - 2 * wide @ wide.T, 0)
    if kernel == "energy":
        return np.asarray(-np.sqrt(squares))
    return np.asarray(np.exp(-squares / max(float(np.median(squares)), 1e-12)))


class WindowTest:
    """Compares the latest `window` embeddings with a fixed reference every `every` samples.

    Alarms when their `separation` passes `limit`; the reference stays until `refer` gives another. What a mean or a
    distance hides (another mixture of the same things, a slow walk) shows here. Keeps (REFERENCE + window) D numbers;
    a comparison takes about a millisecond. Assumes samples that do not depend on each other within a window: on a
    stream recorded in order a burst of equals is a change.
    """

    REFERENCE = 64

    def __init__(self, dim: int, kernel: str = "energy", window: int = 64, every: int = 16, limit: float = 3.5) -> None:
        if kernel not in KERNELS:
            raise ConfigError(f"window test: unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
        self.kernel, self.every, self.limit = kernel, every, limit
        self._reference: Float = np.zeros((0, dim), np.float32)
        self._window: Float = np.zeros((window, dim), np.float32)
        self._count = 0  # since the reference

    def refer(self, z: Float) -> None:
        """Make `z` (N, D) the reference (at most REFERENCE rows of it, evenly) and start a new window."""
        self._reference, self._count = thin(z, self.REFERENCE), 0

    def update(self, z: Float) -> bool:
        """Take one embedding (D,); True at an alarm. Never before the window is full."""
        size = len(self._window)
        self._window[self._count % size] = z
        self._count += 1
        if len(self._reference) < 2 or self._count < size or self._count % self.every:
            return False
        return separation(self._reference, self._window, self.kernel) > self.limit

    def rebase(self, reference: Float, moved: Displacement) -> None:
        """The encoder has changed: `reference` (N, D) by it, unless there was none, and the window moved along.

        After a great change (over a fifth of the embeddings' spread) the window starts anew: its rows are not where
        they would be to within what the test sees.
        """
        if len(self._reference):
            self._reference = thin(reference, self.REFERENCE)
        if moved.size > 0.2:
            self._count = 0
        self._window = moved.apply(self._window).astype(np.float32)

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {
            "reference": self._reference,
            "window": self._window,
            "count": np.array([self._count], np.int64),
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._reference, self._window = np.array(tensors["reference"]), np.array(tensors["window"])
        self._count = int(tensors["count"][0])


def thin(z: Float, most: int) -> Float:
    """At most `most` rows of `z`, evenly spaced, as a copy."""
    rows = np.linspace(0, len(z) - 1, min(most, len(z))).round().astype(np.int64)
    return z[rows].astype(np.float32)
