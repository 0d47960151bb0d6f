"""A slow learner beside the fast one: complementary learning systems (McClelland et al. 1995; as a moving average of
weights, Arani et al. 2022, arXiv 2201.12604)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots, moving_average


@dataclass(frozen=True)
class SlowLearner(Strategy):
    """Slot `slow`, the moving average of theta, is what a device embeds with; theta learns fast and is not shown.

    What the stream says for a moment passes the average by, what it says again and again settles in it. Sleep, steps on
    remembered samples alone, lets the fast weights find back to the past while nothing comes in, and the slow ones
    follow. Memory: 4 bytes per parameter. Compute: none but vector arithmetic.
    """

    name: ClassVar[str] = "slow"
    hyper: ClassVar[dict[str, float]] = {"slow_decay": 0.99}
    price: ClassVar[Price] = Price(bytes_per_parameter=4)
    adds: ClassVar[bool] = False
    embeds: ClassVar[str] = "slow"

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """Slow weights start as a copy of the fast ones."""
        return {"slow": theta.clone()}

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The slow weights follow the new theta."""
        return moved, {"slow": moving_average(slots["slow"], moved, hyper["slow_decay"])}
