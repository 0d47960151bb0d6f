"""Send along what the device's samples cluster to."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated.clustering import LOCAL_CENTROIDS, centroids_of, local_centroids
from federated.rules.base import Float, Rule

PROJECTIONS = "projections"  # the objective's slot: the latest target projections (M, D)


@dataclass(frozen=True)
class OrchestraRule(Rule):
    """Lubana et al., ICML 2022: in the reply the global centroids' first rows are LOCAL_CENTROIDS of the device's own.

    They come from the slot `projections` of objective "orchestra", each for about as many samples as the others, so
    that none shows a single one.
    """

    name: ClassVar[str] = "orchestra"

    def reply(self, learner: Learner) -> Float:
        """The weights, with the device's centroids."""
        entry = centroids_of(learner.bundle.manifest.parameters)
        projections = learner.slot(PROJECTIONS)
        if len(projections) < 2 * LOCAL_CENTROIDS:
            raise FederationError(
                f"orchestra: {len(projections)} projections are too few for {LOCAL_CENTROIDS} clusters"
            )
        rng = np.random.default_rng((learner.seed, learner.metrics()["attempts"]))
        theta = learner.theta
        rows = theta[entry.offset : entry.offset + entry.size].reshape(entry.shape)
        rows[:LOCAL_CENTROIDS] = local_centroids(projections, LOCAL_CENTROIDS, rng)
        return theta
