"""Orchestra on the server: average the weights, cluster the devices' clusters."""

from collections.abc import Sequence

import numpy as np

from edgessl.device.bundle.specs import ParameterEntry
from federated.clustering import LOCAL_CENTROIDS, Rows, centroids_of, global_centroids, unit
from federated.strategies.base import Float, Streaming, WeightedMean


class Orchestra(Streaming):
    """Lubana et al., "Orchestra: unsupervised federated learning via globally consistent clustering", ICML 2022.

    Global centroids (K, D) travel to the devices as the part `clusters.centroids` of theta. A reply holds the device's
    own LOCAL_CENTROIDS in that part's first rows (rule "orchestra"); these are pooled and clustered, the rest is
    averaged as FedAvg does. The pool holds 16 rows per reply. Without individual updates it cannot be had.
    """

    def __init__(
        self, layout: Sequence[ParameterEntry], *, steps: int = 500, lr: float = 0.01, temperature: float = 0.1
    ) -> None:
        self._entry = centroids_of(layout)
        self.steps, self.lr, self.temperature = steps, lr, temperature

    def begin(self, number: int, reference: Float) -> None:
        """Nothing added yet; the centroids go on from where they are."""
        self._mean, self._pool = WeightedMean(), list[Rows]()
        self._centroids = unit(self._part(reference))

    def add(self, theta: Float, examples: int) -> None:
        """Add `examples` times theta, and its centroids to the pool."""
        self._mean.add(theta, examples)
        self._pool.append(unit(self._part(theta)[:LOCAL_CENTROIDS]))

    def finish(self) -> Float:
        """The mean, with the new centroids in their place."""
        theta = self._mean.value().astype(np.float32)
        pool = np.concatenate(self._pool)
        settings = {"lr": self.lr, "temperature": self.temperature}
        self._part(theta)[:] = global_centroids(pool, self._centroids, steps=self.steps, **settings)
        return theta

    def _part(self, theta: Float) -> Float:
        return theta[self._entry.offset : self._entry.offset + self._entry.size].reshape(self._entry.shape)
