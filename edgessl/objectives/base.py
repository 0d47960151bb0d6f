"""What an objective is: heads on top of the encoder, slots, hyperparameters and a loss of a batch and its views.

An objective is one small file: a frozen dataclass whose fields are its options, plus one line in the registry.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.encoders.norm import BatchNorm
from edgessl.objectives.network import Network, Slots


@dataclass(frozen=True)
class Batch:
    """What a loss is a function of, beside the parameters.

    Attributes:
        sample: `(N, *shape)` float32, as it came, in raw units.
        views: random views of it, each `(N, *shape)`: the global ones, then the local ones (`Objective.crops`).
        noise: uniform [0, 1) numbers `(N, noise_width)` for what the objective draws itself: masks, time steps.
    """

    sample: Tensor
    views: tuple[Tensor, ...]
    noise: Tensor


@dataclass(frozen=True)
class Loss:
    """What an objective returns: the scalar, the encoder's embeddings to watch, the slots it changed.

    `embeddings` is `(M, D)` with M a multiple of N: the rows of one view, then those of the next.
    """

    value: Tensor
    embeddings: Tensor
    slots: Slots


Gather = Callable[[Tensor], Tensor]
"""Rows `(N, D)` of this process -> rows of the joined batch; the identity in a single process."""


class Objective(ABC):
    """A self-supervised objective: what it needs, and its loss as a pure function of tensors.

    Attributes:
        name: in the registry.
        family: for tables: contrastive, distillation, redundancy, clustering, masked, generative, pretext, predictive.
        hyper: default values of the scalars that enter the loss or the slots' updates.
        kinds: kinds of input it takes.
        min_batch: smallest sensible batch; the class docstring says why.
        onnx: why it has no ONNX training step; "" when it has one.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    hyper: ClassVar[dict[str, float]]
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal", "features", "latent")  # whatever has views
    min_batch: ClassVar[int] = 2
    onnx: ClassVar[str] = ""

    def crops(self) -> tuple[int, int]:
        """How many global and how many local views of each sample the loss takes."""
        return (2, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """Uniform numbers per sample of `shape` that the loss itself consumes."""
        return 0

    @abstractmethod
    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """Modules trained beside the encoder, by name; `norm` is the kind of norm ("layer" or "batch") they use.

        Raises:
            ConfigError: the objective cannot train this encoder.
        """

    def slots(self, theta: Tensor) -> Slots:
        """Initial slots beside `theta` `(size,)`; random ones draw from torch's current generator."""
        return {}

    @abstractmethod
    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """The loss of a batch: a function of `gather`ed rows, so that it is the joined batch's on every process."""

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


def centred_mlp(sizes: tuple[int, ...], norm: str) -> nn.Sequential:
    """`mlp` for losses that centre its output over the batch: its last layer norm has no bias either.

    Where a unit is on for every sample, its bias shifts all outputs alike, centring takes that away, and Adam would
    turn what rounding leaves of the gradient into steps.
    """
    layers = mlp(sizes, norm)
    if norm == "layer":
        layers[-3] = nn.LayerNorm(sizes[-2], bias=False)  # ... norm, ReLU, linear
    return layers


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
