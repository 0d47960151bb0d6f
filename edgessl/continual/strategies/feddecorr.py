"""No two features alike, so that devices with few classes keep all dimensions (Shi et al. 2023, arXiv 2210.00226)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.objectives.base import Gather, Network, Slots
from edgessl.objectives.functional.rows import standardized


@dataclass(frozen=True)
class FedDecorr(Strategy):
    """`weight / D^2 |K|_F^2`, K being the correlation matrix `(D, D)` of the batch's embeddings.

    A device whose samples are of few classes uses few dimensions, and the mean over such devices fewer still; keeping
    the features uncorrelated holds the others open. 0.1 is the paper's weight. The server and the messages know nothing
    of it. Memory: none. Compute: none but one product of `(D, N)` and `(N, D)`.
    """

    name: ClassVar[str] = "feddecorr"
    hyper: ClassVar[dict[str, float]] = {"feddecorr_weight": 0.1}
    price: ClassVar[Price] = Price()

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """The mean square of the correlations."""
        _, embedding = rows.embedded
        return hyper["feddecorr_weight"] * mean_square_correlation(gather(embedding))


def mean_square_correlation(z: Tensor) -> Tensor:
    """`1 / D^2 |K|_F^2` of rows `(N, D)`; 1 when all features are alike, 1 / D when none is correlated with another."""
    unit = standardized(z)
    return (unit.T @ unit / len(z)).square().mean()
