"""CLIP: two modalities of the same moment meet in one space (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.encoders.pair import Towers
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.functional import clip_loss


@dataclass(frozen=True)
class CLIP(Objective):
    """Symmetric InfoNCE of the two towers of the encoder "pair", each through a linear projection as in the paper. No
    slots, no noise, no views.

    The temperature, which CLIP learns, is a hyperparameter: a device's batches are small and its log-scale would drift.
    A batch of 2 gives one negative, which is the least there can be; 32 and more are what makes the task hard.
    """

    projection: int = 64
    name: ClassVar[str] = "clip"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.07}
    kinds: ClassVar[tuple[str, ...]] = ("pair",)

    def crops(self) -> tuple[int, int]:
        """None: the other modality is the other view."""
        return (0, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A linear projection for each tower; ConfigError for an encoder without towers."""
        towers = encoder.stages[0]
        if not isinstance(towers, Towers):
            raise ConfigError(f"objective {self.name}: expected the encoder 'pair', which has two towers")
        return {"projector": TwoProjections(towers.sizes, self.projection)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """`clip_loss` of the joined batch."""
        h = network("encoder", batch.sample)
        a, b = gather(network("projector", h)).chunk(2, dim=1)
        return Loss(clip_loss(a, b, hyper["temperature"]), h, {})


class TwoProjections(nn.Module):
    """One matrix for each tower's part of the embedding: `(N, sum(sizes))` to `(N, 2 * projection)`."""

    def __init__(self, sizes: tuple[int, int], projection: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.first = nn.Linear(sizes[0], projection, bias=False)
        self.second = nn.Linear(sizes[1], projection, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Both projections, the first tower's columns first."""
        a, b = h.split(self.sizes, dim=1)
        return torch.cat([self.first(a), self.second(b)], dim=1)
