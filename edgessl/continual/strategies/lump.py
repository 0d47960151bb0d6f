"""LUMP: learn on mixtures of new and remembered samples (Madaan et al. 2022, arXiv 2110.06976)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Strategy
from edgessl.objectives.base import Batch, Slots


@dataclass(frozen=True)
class LUMP(Strategy):
    """Row i, sample and views, becomes `c x_i + (1 - c) x_j`: i new and j remembered, or the other way round.

    Each row has a c of its own, from the arcsine law Beta(1/2, 1/2), `sin^2(pi u / 2)` of a uniform u; the paper draws
    one per batch from Beta(0.4, 0.4), close to it, whose quantiles have no closed form. Rows keep their number, so a
    step costs what it costs without. Token ids cannot be mixed. Memory: none. Compute: none but the mixing.
    """

    name: ClassVar[str] = "lump"
    hyper: ClassVar[dict[str, float]] = {}
    price: ClassVar[Price] = Price()
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal", "pair", "latent", "features")
    adds: ClassVar[bool] = False

    def noise_width(self) -> int:
        """One coefficient."""
        return 1

    def mix(self, batch: Batch, noise: Tensor, hyper: Slots) -> Batch:
        """Every row with one of the other half."""
        coefficient = torch.sin(0.5 * math.pi * noise[:, 0]).square()

        def mixed(rows: Tensor) -> Tensor:
            half = len(rows) // 2
            partner = torch.cat([rows[half:], rows[:half]])
            c = coefficient.reshape(-1, *[1] * (rows.dim() - 1))
            return c * rows + (1 - c) * partner

        return replace(batch, sample=mixed(batch.sample), views=tuple(mixed(view) for view in batch.views))
