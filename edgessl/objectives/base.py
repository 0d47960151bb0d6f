"""What an objective is: heads on top of the encoder, slots, hyperparameters and a loss of two views.

An objective is one small file: a frozen dataclass whose fields are its options, plus one line in the registry.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.norm import BatchNorm

Slots = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """The network bound to a flat vector: `network("encoder", x)` applies the named part with those parameters.

    `statistics` collects the batch statistics that batch norms of the trained network saw; a teacher's are not kept.
    """

    apply: Callable[[Tensor, str, Tensor], tuple[Tensor, Slots]]
    theta: Tensor
    statistics: Slots = field(default_factory=dict)

    def __call__(self, part: str, x: Tensor) -> Tensor:
        """Apply `part` ("encoder", "projector", ...) to `x`."""
        out, statistics = self.apply(self.theta, part, x)
        self.statistics.update(statistics)
        return out

    def at(self, theta: Tensor) -> Network:
        """The same network with other parameters (a momentum teacher, an anchor)."""
        return Network(self.apply, theta)


@dataclass(frozen=True)
class Loss:
    """What an objective returns: the scalar, the encoder's embeddings `(M, D)` to watch, the slots it changed."""

    value: Tensor
    embeddings: Tensor
    slots: Slots


Gather = Callable[[Tensor], Tensor]
"""Rows `(N, D)` of this process -> rows of the joined batch; the identity in a single process."""


class Objective(ABC):
    """A self-supervised objective on two views."""

    name: ClassVar[str]
    hyper: ClassVar[dict[str, float]]

    @abstractmethod
    def heads(self, embedding_dim: int, norm: str) -> dict[str, nn.Module]:
        """Modules trained beside the encoder, by name; `norm` is the kind of norm ("layer" or "batch") they use."""

    def slots(self, theta: Tensor) -> Slots:
        """Initial slots beside `theta` `(size,)`; random ones draw from torch's current generator."""
        return {}

    @abstractmethod
    def loss(self, network: Network, slots: Slots, a: Tensor, b: Tensor, hyper: Slots, gather: Gather) -> Loss:
        """The loss of views `a`, `b` `(N, *shape)`. Losses that couple samples see `gather`ed embeddings."""

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """Slots that follow the new `theta` (a momentum teacher)."""
        return slots


def mlp(sizes: tuple[int, ...], norm: str) -> nn.Sequential:
    """Linear layers with norm and ReLU in between; no biases, whose gradients losses on centred or normalised
    embeddings leave at rounding noise, which Adam would turn into steps."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [
            nn.Linear(n_in, n_out, bias=False),
            BatchNorm(n_out) if norm == "batch" else nn.LayerNorm(n_out),
            nn.ReLU(),
        ]
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=False))
    return nn.Sequential(*layers)


def encode_pair(network: Network, a: Tensor, b: Tensor) -> Tensor:
    """Encoder embeddings of both views from one pass, `(2N, D)`: rows of `a`, then rows of `b`."""
    return network("encoder", torch.cat([a, b]))


def halves(z: Tensor) -> tuple[Tensor, Tensor]:
    """Split `(2N, D)` into the rows of view a and those of view b."""
    a, b = z.chunk(2)  # the backward pass of chunks is one concatenation; of slices, two scatters
    return a, b


def moving_average(average: Tensor, new: Tensor, decay: Tensor) -> Tensor:
    """`decay * average + (1 - decay) * new`."""
    return decay * average + (1 - decay) * new
