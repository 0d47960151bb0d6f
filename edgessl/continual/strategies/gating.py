"""Gating: important groups of parameters learn little or not at all (PackNet, Mallya & Lazebnik 2018, arXiv 1711.05769;
dendritic gating, Iyer et al. 2022, arXiv 2201.00042)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.continual.strategies.base import Price, Strategy
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots


@dataclass(frozen=True)
class Gating(Strategy):
    """`move_i -> gate_i * move_i`, after the optimizer, so that neither momentum nor decay gets past the gate.

    A group is a unit: one row of a weight, all that enters one output; in a vector, one number. Its importance u is the
    mean over its parameters of MAS's `|d |z|^2 / d theta|`, in a sum that decays by `gate_decay` per consolidation.
    Soft: `gate = 1 / (1 + gate_strength * u / mean u)`. `hard`, as PackNet but by importance instead of magnitude: the
    `share` of groups that matter most are shut, the others open; always the same share, so that the network stays
    plastic however long the stream is. Memory: 8 bytes per parameter. Compute: none but vector arithmetic; per
    consolidation one pass forward and backward for each sample.
    """

    hard: bool = False
    share: float = 0.5
    name: ClassVar[str] = "gating"
    hyper: ClassVar[dict[str, float]] = {"gate_strength": 1.0, "gate_decay": 0.95}
    price: ClassVar[Price] = Price(bytes_per_parameter=8)
    adds: ClassVar[bool] = False
    consolidates: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"strategy gating: share {self.share}; expected a number between 0 and 1")

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """All gates open."""
        return {"gate": torch.ones_like(theta), "importances": torch.zeros_like(theta)}

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The gated move."""
        return theta + slots["gate"] * (moved - theta), {}

    def sensitivity(self, embedding: Tensor, probe: Tensor) -> Tensor:
        """`|z|^2`; the probe is not looked at."""
        return embedding.square().sum()

    def weigh(self, gradient: Tensor) -> Tensor:
        """Its magnitude."""
        return gradient.abs()

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """Gates for the new importances."""
        assert importance is not None
        total = hyper["gate_decay"] * state["importances"] + importance
        pieces = layout.unflatten(total)
        sizes = {e.name: e for e in layout.entries if e.kind in ("weight", "vector")}
        groups = {name: pieces[name].reshape(max(e.shape[:1], default=1), -1).mean(1) for name, e in sizes.items()}
        scores = torch.cat(list(groups.values()))
        if self.hard:
            shut = max(1, round(self.share * len(scores)))
            bound = torch.topk(scores, shut).values[-1].clamp(min=1e-30)  # what matters to nothing stays open
            gates = (scores < bound).to(total.dtype)
        else:
            gates = 1 / (1 + hyper["gate_strength"] * scores / (scores.mean() + 1e-30))
        opened = gates.split([len(group) for group in groups.values()])
        spread = [
            g.unsqueeze(1).expand(-1, e.size // len(g)).reshape(-1) for g, e in zip(opened, sizes.values(), strict=True)
        ]
        untrained = torch.ones_like(total[layout.trained_end :])
        return {"gate": torch.cat([*spread, untrained]), "importances": total}
