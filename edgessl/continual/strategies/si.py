"""SI: hold the parameters whose moves lowered the loss (Zenke et al. 2017, arXiv 1703.04200)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.anchored import accumulated, anchored_penalty, anchored_slots
from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class SI(Strategy):
    """`weight / 2 sum_i O_i (theta_i - theta*_i)^2`; slot `path` sums `-g_i * move_i` over the steps, g the objective's
    own gradient (eq. 3), and `O_i = max(path_i, 0) / ((theta_i - theta*_i)^2 + damping)` at consolidation (eq. 5).

    Importance as a by-product of training: nothing is measured afterwards, and nothing is known of what was learned
    before (a network fresh from pretraining has no path). O enters a decaying sum, see `anchored.accumulated`; the
    paper sums up tasks. Memory: 12 bytes per parameter. Compute: none but vector arithmetic.
    """

    name: ClassVar[str] = "si"
    hyper: ClassVar[dict[str, float]] = {"si_weight": 10.0, "si_decay": 0.95, "si_damping": 1e-3}
    price: ClassVar[Price] = Price(bytes_per_parameter=12)
    consolidates: ClassVar[bool] = True

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """Anchor, importance and path."""
        return {**anchored_slots(theta), "path": torch.zeros_like(theta)}

    def penalty(self, theta: Tensor, slots: Slots, hyper: Slots) -> tuple[Tensor, Tensor] | None:
        """The quadratic pull."""
        return anchored_penalty(theta, slots, hyper["si_weight"])

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The path goes on by this step's share of the loss."""
        end = layout.trained_end
        share = gradient[:end] * (moved[:end] - theta[:end])
        return moved, {"path": slots["path"] - torch.nn.functional.pad(share, (0, layout.size - end))}

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The path's importance enters the sum, a new path begins at the network, now the anchor."""
        away = (state["theta"] - state["anchor"]).square()
        earned = torch.relu(state["path"]) / (away + hyper["si_damping"])
        return {
            **accumulated(state, earned, hyper["si_decay"], layout),
            "path": torch.zeros_like(state["path"]),
        }
