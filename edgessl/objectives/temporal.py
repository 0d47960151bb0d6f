"""Temporal-neighbour contrast: two pieces of one window, near in time, agree; pieces of other windows differ.

Time as the teacher: time-contrastive learning (Hyvarinen and Morioka 2016, arXiv 1605.06336), temporal neighbourhood
coding (Tonekaboni et al. 2021, arXiv 2106.00750). For streams, where a neighbour in time costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, halves, mlp
from edgessl.objectives.functional import nt_xent_loss
from edgessl.views.sampling import indices


@dataclass(frozen=True)
class Temporal(Objective):
    """NT-Xent of two sub-windows, each `length` of the window, whose starts lie at most `reach` of the window apart. No
    slots.

    One is cut from each of the two views; an empty list of views in the recipe leaves time alone. A batch of 2 gives
    each anchor two negatives; like SimCLR it gains from more. The encoder is applied to shorter inputs than it was
    built for, so it has to be convolutional.
    """

    hidden: int = 128
    projection: int = 64
    length: float = 0.5
    reach: float = 0.25
    name: ClassVar[str] = "temporal"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.2}
    kinds: ClassVar[tuple[str, ...]] = ("signal", "spectrogram")

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """Where the first piece starts, and how far from it the second."""
        return 2

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A two-layer projector; ConfigError for an encoder that takes one length only, or pieces of no length."""
        if encoder.tokenized or encoder.stage_names[0] != "stem":
            raise ConfigError(f"objective {self.name}: expected a convolutional encoder, which takes any length")
        if not 0 < self.length < 1 or not 0 <= self.reach <= 1 or int(self.length * encoder.input_shape[-1]) < 1:
            raise ConfigError(
                f"objective {self.name}: length {self.length} and reach {self.reach} are shares of a window of "
                f"{encoder.input_shape[-1]} steps; expected a length between 0 and 1 and a reach from 0 to 1"
            )
        return {"projector": mlp((encoder.embedding_dim, self.hidden, self.projection), norm)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """NT-Xent of the projections of the two pieces."""
        first, second = neighbours(batch.noise, batch.sample.shape[-1], self.length, self.reach)
        size = int(self.length * batch.sample.shape[-1])
        pieces = torch.cat([piece(batch.views[0], first, size), piece(batch.views[1], second, size)])
        h = network("encoder.run", network("encoder.normalize", pieces), "stem", "pool")
        z_a, z_b = halves(network("projector", h))
        return Loss(nt_xent_loss(gather(z_a), gather(z_b), hyper["temperature"]), h, {})


def neighbours(u: Tensor, steps: int, length: float, reach: float) -> tuple[Tensor, Tensor]:
    """Starts `(N, 1)` of two pieces of `int(length * steps)` steps, from uniform noise `u` `(N, 2)`.

    The first lies anywhere in the window; the second starts within `int(reach * steps)` steps of it, moved back into
    the window where it would stick out.
    """
    room, furthest = steps - int(length * steps), int(reach * steps)
    first = torch.floor((room + 1) * u[:, :1])
    return first, (first + torch.floor((2 * furthest + 1) * u[:, 1:]) - furthest).clamp(0, room)


def piece(x: Tensor, start: Tensor, size: int) -> Tensor:
    """Steps `start` `(N, 1)` to `start + size` of the last axis of `x` `(N, ..., T)`."""
    places = (start + indices(size, start)).to(torch.int64)
    shape = (x.shape[0], *[1] * (x.ndim - 2), size)
    return torch.gather(x, x.ndim - 1, places.reshape(shape).expand(*x.shape[:-1], size))
