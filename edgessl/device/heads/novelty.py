"""How unlike the remembered past an embedding is."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgessl.errors import InputError

Float = npt.NDArray[np.float32]


LEAST = 8  # embeddings in a bank


class Novelty(Protocol):
    """Scores embeddings against a bank of past ones: about 0 for what is familiar; above 3 is worth a look."""

    def score(self, z: Float) -> npt.NDArray[np.float64]:
        """Scores (N,) of embeddings (N, D), in standard deviations of what the bank's own are, each left out."""


class NeighbourNovelty:
    """Distance to the nearest of a bank of past embeddings, in the past's own spread.

    Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022 (k = 1): embeddings are
    normalised to length 1; the unit of the score is the standard deviation of the distance from a banked
    embedding to its nearest other one, 0 being the mean of these distances. About 0 for what is familiar;
    above 3 is worth a look.
    """

    def __init__(self, bank: Float) -> None:
        """`bank`: embeddings (M, D) of past samples; InputError when M < LEAST."""
        check_bank(bank)
        self._bank = unit(bank)
        among = self._distances(self._bank)
        np.fill_diagonal(among, np.inf)
        nearest = among.min(1)
        self._mean, self._spread = float(nearest.mean()), max(float(nearest.std()), 1e-6)

    def score(self, z: Float) -> npt.NDArray[np.float64]:
        """Scores (N,) of embeddings (N, D), in standard deviations."""
        return (self._distances(unit(z)).min(1) - self._mean) / self._spread

    def _distances(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.sqrt(np.maximum(2 - 2 * z @ self._bank.T, 0))


class MahalanobisNovelty:
    """Mahalanobis distance of the direction to the bank's mean, in the past's own spread.

    Lee et al., "A simple unified framework for detecting out-of-distribution samples", NeurIPS 2018, with one class
    for want of labels. The covariance is shrunk by a fixed share of its mean variance, since a bank is small beside
    D^2. The unit of the score is the standard deviation of the banked embeddings' distances, each to the mean and
    covariance of the others. One cluster's shape counts here; where the past has many, neighbours tell more.
    """

    SHRINKAGE = 0.1

    def __init__(self, bank: Float) -> None:
        """`bank`: embeddings (M, D) of past samples; InputError when M < LEAST."""
        check_bank(bank)
        z = unit(bank)
        n, dim = z.shape
        self._mean = z.mean(0)
        off = z - self._mean
        ridge = self.SHRINKAGE * max(float((off**2).sum()) / (n * dim), 1e-12)
        self._precision = np.linalg.inv(off.T @ off / (n - 1) + ridge * np.eye(dim))
        # without one its deviation grows by n / (n - 1) and the scatter loses so much of its square (Sherman, Morrison)
        without = np.linalg.inv(off.T @ off / (n - 2) + ridge * np.eye(dim))
        q = ((off @ without) * off).sum(1)
        rest = np.maximum(1 - q * n / ((n - 1) * (n - 2)), 1e-12)
        alone = n / (n - 1) * np.sqrt(q / rest)
        self._usual, self._spread = float(alone.mean()), max(float(alone.std()), 1e-6)

    def score(self, z: Float) -> npt.NDArray[np.float64]:
        """Scores (N,) of embeddings (N, D), in standard deviations."""
        off = unit(z) - self._mean
        distance = np.sqrt(np.maximum(((off @ self._precision) * off).sum(1), 0))
        return np.asarray((distance - self._usual) / self._spread)


NOVELTIES: dict[str, Callable[[Float], Novelty]] = {"knn": NeighbourNovelty, "mahalanobis": MahalanobisNovelty}


def check_bank(bank: Float) -> None:
    """InputError when there are fewer than LEAST embeddings."""
    if len(bank) < LEAST:
        raise InputError(f"novelty needs {LEAST} remembered samples, found {len(bank)}; observe more first")


def unit(z: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Rows of `z` (N, D) scaled to length 1 (zero rows stay zero), float64."""
    wide = z.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
