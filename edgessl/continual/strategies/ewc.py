"""EWC: hold the parameters that the past embedding depends on (Kirkpatrick et al. 2017, arXiv 1612.00796; online,
Schwarz et al. 2018, arXiv 1805.06370)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgessl.continual.strategies.anchored import accumulated, anchored_penalty, anchored_slots
from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class EWC(Strategy):
    """`weight / 2 sum_i F_i (theta_i - theta*_i)^2`, F the Fisher diagonal of the embedding.

    Which Fisher: self-supervision has no likelihood, so the embedding is taken for the mean of a Gaussian of unit
    variance. Its Fisher information is the Gauss-Newton matrix `E_x[J^T J]`, J the Jacobian of the embedding, whose
    diagonal is `E_x,v[(d(v . z(x)) / d theta)^2]` over random signs v (one probe per sample): per-sample gradients,
    squared, then averaged. (The square of a mean gradient, which several libraries take, is another and smaller thing.)
    Online: one F, a sum that decays by `ewc_decay` with each consolidation, see `anchored.accumulated`.

    Memory: 8 bytes per parameter. Compute: none per step but vector arithmetic; per consolidation one pass forward and
    backward for each sample.
    """

    name: ClassVar[str] = "ewc"
    hyper: ClassVar[dict[str, float]] = {"ewc_weight": 10.0, "ewc_decay": 0.95}
    price: ClassVar[Price] = Price(bytes_per_parameter=8)
    consolidates: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """Anchor and importance."""
        return anchored_slots(theta)

    def penalty(self, theta: Tensor, slots: Slots, hyper: Slots) -> tuple[Tensor, Tensor] | None:
        """The quadratic pull."""
        return anchored_penalty(theta, slots, hyper["ewc_weight"])

    def sensitivity(self, embedding: Tensor, probe: Tensor) -> Tensor:
        """`v . z`."""
        return (embedding * probe).sum()

    def weigh(self, gradient: Tensor) -> Tensor:
        """Its square."""
        return gradient.square()

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The Fisher enters the sum, the network becomes the anchor."""
        assert importance is not None
        return accumulated(state, importance, hyper["ewc_decay"], layout)
