"""Synaptic scaling: every unit keeps the strength of its inputs (Turrigiano 2008, Cell 135:422)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Strategy
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class SynapticScaling(Strategy):
    """After the optimizer, the weights into a unit are multiplied by `(norm* / norm)^rate`, norm* being their L2 norm
    at the start (slot `norms`): which inputs a unit listens to changes, how loudly altogether does not.

    Homeostasis keeps a long stream from driving units up or silent; it does not know what is important. Units that
    start at zero (adapters) are let be. Memory: 4 bytes per unit, a small share of 4 bytes per parameter. Compute: none
    but vector arithmetic.
    """

    name: ClassVar[str] = "scaling"
    hyper: ClassVar[dict[str, float]] = {"scaling_rate": 0.5}
    price: ClassVar[Price] = Price(bytes_per_parameter=0)
    adds: ClassVar[bool] = False

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The set points."""
        return {"norms": torch.cat([_norms(weight) for weight in _weights(theta, layout)])}

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The scaled weights."""
        weights = _weights(moved, layout)
        wanted = slots["norms"].split([len(weight) for weight in weights])
        scaled = []
        for weight, target in zip(weights, wanted, strict=True):
            ratio = (target + 1e-12) / (_norms(weight) + 1e-12)
            factor = torch.where(target > 1e-6, torch.exp(hyper["scaling_rate"] * torch.log(ratio)), 1.0)
            scaled.append((weight * factor.unsqueeze(1)).reshape(-1))
        return torch.cat([*scaled, moved[layout.weights_end :]]), {}


def _weights(theta: Tensor, layout: ParameterLayout) -> list[Tensor]:
    """The matrices and kernels in `theta`, each `(units, inputs)`."""
    entries = [e for e in layout.entries if e.kind == "weight"]
    pieces = theta[: layout.weights_end].split([e.size for e in entries])
    return [piece.reshape(e.shape[0], -1) for piece, e in zip(pieces, entries, strict=True)]


def _norms(weight: Tensor) -> Tensor:
    """L2 norm of each row of `weight` `(units, inputs)`."""
    return weight.square().sum(dim=1).sqrt()
