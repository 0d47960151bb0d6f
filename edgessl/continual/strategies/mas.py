"""MAS: hold the parameters to which the length of the embedding is sensitive (Aljundi et al. 2018, arXiv
1711.09601)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgessl.continual.strategies.anchored import accumulated, anchored_penalty, anchored_slots
from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class MAS(Strategy):
    """`weight / 2 sum_i O_i (theta_i - theta*_i)^2`, O the mean over samples of `|d |z(x)|^2 / d theta|`.

    Needs no labels and no loss. Where the encoder ends in a norm, |z| hardly varies and this sees little; EWC's Fisher
    sees every direction. Memory: 8 bytes per parameter. Compute: none per step but vector arithmetic; per consolidation
    one pass forward and backward for each sample.
    """

    name: ClassVar[str] = "mas"
    hyper: ClassVar[dict[str, float]] = {"mas_weight": 10.0, "mas_decay": 0.95}
    price: ClassVar[Price] = Price(bytes_per_parameter=8)
    consolidates: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """Anchor and importance."""
        return anchored_slots(theta)

    def penalty(self, theta: Tensor, slots: Slots, hyper: Slots) -> tuple[Tensor, Tensor] | None:
        """The quadratic pull."""
        return anchored_penalty(theta, slots, hyper["mas_weight"])

    def sensitivity(self, embedding: Tensor, probe: Tensor) -> Tensor:
        """`|z|^2`; the probe is not looked at."""
        return embedding.square().sum()

    def weigh(self, gradient: Tensor) -> Tensor:
        """Its magnitude."""
        return gradient.abs()

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The sensitivity enters the sum, the network becomes the anchor."""
        assert importance is not None
        return accumulated(state, importance, hyper["mas_decay"], layout)
