"""Where an embedding that was kept would lie now: the encoder's movement, learned from samples embedded twice."""

import numpy as np
import numpy.typing as npt

from edgessl.device.heads.novelty import unit

NEIGHBOUR = 5  # the distance to it sets how local the movement is


class Displacement:
    """The movement of the embedding around each point, from `before` and `after` (M, D) of the same M samples.

    Semantic drift compensation (Yu et al., "Semantic drift compensation for class-incremental learning", CVPR 2020):
    a point moves by the average movement of the samples, weighted by exp(-d^2 / 2 s^2) of their distance d; s is the
    median distance of a sample to its fifth nearest. 2 M D numbers, M D multiplications a point.
    """

    def __init__(self, before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> None:
        self._before, self._after = before.astype(np.float64), after.astype(np.float64)
        self._moved = self._after - self._before
        among = np.sort(self._squares(self._before), axis=1)
        scale = np.median(among[:, min(NEIGHBOUR, len(before) - 1)])
        self._scale = max(float(scale), 1e-12)

    @property
    def size(self) -> float:
        """Root mean square movement over the samples' spread around their mean."""
        spread = float(self._before.var(0).sum())
        return float(np.sqrt((self._moved**2).sum(1).mean() / max(spread, 1e-12)))

    def of_directions(self) -> "Displacement":
        """The movement of the embeddings' directions, for what is kept as a direction."""
        return Displacement(unit(self._before), unit(self._after))

    def _squares(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        norms = (z**2).sum(1)[:, None] + (self._before**2).sum(1)
        return np.asarray(np.maximum(norms - 2 * z @ self._before.T, 0))

    def apply(self, z: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Points `z` (N, D) of the old embedding in the new one, float64."""
        wide = z.astype(np.float64)
        squares = self._squares(wide)
        weights = np.exp((squares.min(1, keepdims=True) - squares) / (2 * self._scale))
        return np.asarray(wide + (weights / weights.sum(1, keepdims=True)) @ self._moved)
