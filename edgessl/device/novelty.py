"""How unlike the remembered past an embedding is."""

import numpy as np
import numpy.typing as npt

from edgessl.errors import InputError

Float = npt.NDArray[np.float32]


class NeighbourNovelty:
    """Distance to the nearest of a bank of past embeddings, in the past's own spread.

    Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022 (k = 1): embeddings are
    normalised to length 1; the unit of the score is the standard deviation of the distance from a banked
    embedding to its nearest other one, 0 being the mean of these distances. About 0 for what is familiar;
    above 3 is worth a look.
    """

    LEAST = 8  # embeddings in a bank

    def __init__(self, bank: Float) -> None:
        """`bank`: embeddings (M, D) of past samples; InputError when M < LEAST."""
        if len(bank) < self.LEAST:
            raise InputError(f"novelty needs {self.LEAST} remembered samples, found {len(bank)}; observe more first")
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


def unit(z: Float) -> npt.NDArray[np.float64]:
    """Rows of `z` (N, D) scaled to length 1 (zero rows stay zero), float64."""
    wide = z.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
