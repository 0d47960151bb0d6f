"""Predictive coding with local updates (Rao and Ballard 1999, Nature Neuroscience 2:79-87).

Every stage of the encoder has a latent r_l and a generator g_l, linear, that predicts the latent below; r_0 is the
normalised sample. The energy is that of the prediction errors e_l = r_l - g_{l+1}(r_{l+1}), one precision per level:

    E = sum_{l=1..L} |r_{l-1} - g_l(r_l)|^2 / (2 n_{l-1})            n_l: number of values of r_l

1. The stages give first guesses, r_l = f_l(r_{l-1}) (amortised inference, as in Tschantz et al. 2023, arXiv
   2204.02169), which a few steps of gradient descent on E relax, each latent hearing only of the errors beside it:

       r_l <- r_l - rate n_l dE/dr_l = r_l + rate ((n_l / n_{l-1}) J_{g_l}^T e_{l-1} - e_l),    e_L = 0

2. With the latents held fixed, each layer learns from what is beside it alone: the generators descend E, which for
   g_l(r) = U r is Hebb's product of error and latent, dE/dU = -e_{l-1} r_l^T / n_{l-1}; the stages descend
   |r_l - f_l(r_{l-1})|^2 / (2 n_l), so that the next first guess is nearer. No gradient crosses a layer.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import enlarge


@dataclass(frozen=True)
class PredictiveCoding(Objective):
    """Energy of `steps` times relaxed latents over the stages of a convolutional encoder. No slots, no noise, no views.

    Samples do not see each other, so a batch of 1 does (2 with batch norm).
    """

    steps: int = 4
    name: ClassVar[str] = "predictive_coding"
    family: ClassVar[str] = "predictive"
    hyper: ClassVar[dict[str, float]] = {"inference_rate": 0.1}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")
    min_batch: ClassVar[int] = 1

    def crops(self) -> tuple[int, int]:
        """None."""
        return (0, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """One generator per stage but the pool; ConfigError for an encoder that is not a chain of maps."""
        names = encoder.stage_names[:-1]
        if names != tuple(map(stage_name, range(len(names)))):
            raise ConfigError(f"objective {self.name}: expected a convolutional encoder, found the stages {names}")
        return {"generators": Generators(stage_shapes(encoder))}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Both local errors of every level, at the relaxed latents; mean over the samples of the joined batch."""
        levels = network("generators.levels").shape[0]
        with torch.no_grad():
            guesses = [network("encoder.normalize", batch.sample)]
            for level in range(levels):
                guesses.append(network("encoder.run", guesses[-1], stage_name(level), stage_name(level)))
        embeddings = network("encoder.pool", guesses[-1])
        latents = relax(network, guesses, hyper["inference_rate"], self.steps)
        errors = generator_errors(network, latents)
        for level, (below, here) in enumerate(itertools.pairwise(latents)):
            guess = network("encoder.run", below, stage_name(level), stage_name(level))
            errors = errors + half_mean_square(here - guess)
        return Loss(gather(errors.unsqueeze(1)).mean(), embeddings, {})


def relax(network: Network, latents: list[Tensor], rate: Tensor, steps: int) -> list[Tensor]:
    """`steps` steps of gradient descent of the latents above the first on the energy; detached."""
    frozen = network.at(network.theta.detach())
    for _ in range(steps):
        with torch.enable_grad():
            moving = [latents[0], *(latent.detach().requires_grad_() for latent in latents[1:])]
            slopes = torch.autograd.grad(generator_errors(frozen, moving).sum(), moving[1:])
        moved = [r - rate * math.prod(r.shape[1:]) * slope for r, slope in zip(moving[1:], slopes, strict=True)]
        latents = [latents[0], *(latent.detach() for latent in moved)]
    return latents


def generator_errors(network: Network, latents: list[Tensor]) -> Tensor:
    """The energy of each sample, `(N,)`."""
    energy = torch.zeros_like(latents[0].flatten(1)[:, 0])
    for level, (below, here) in enumerate(itertools.pairwise(latents)):
        energy = energy + half_mean_square(below - network(f"generators.down.{level}", here))
    return energy


def half_mean_square(x: Tensor) -> Tensor:
    """Half the mean square of each sample of `x` `(N, ...)`: `(N,)`."""
    return 0.5 * x.flatten(1).square().mean(dim=1)


def stage_name(level: int) -> str:
    """What convolutional encoders call their stages."""
    return f"block{level}" if level else "stem"


def stage_shapes(encoder: Encoder) -> list[tuple[int, ...]]:
    """Shape of the sample, then of what every stage but the pool makes of it."""
    h = torch.zeros(1, *encoder.input_shape)
    shapes = [tuple(encoder.input_shape)]
    with torch.no_grad(), evaluation_mode(encoder):
        for stage in list(encoder.stages)[:-1]:
            h = stage(h)
            shapes.append(tuple(h.shape[1:]))
    return shapes


class Generators(nn.Module):
    """For each level the linear map from its latent to the one below: enlarged, then a convolution 3 wide."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.down = nn.ModuleList(Generator(here, below) for below, here in itertools.pairwise(shapes))

    def levels(self) -> Tensor:
        """An empty tensor (levels, 0): how many there are, which a trace knows as a shape."""
        return torch.empty(len(self.down), 0)


class Generator(nn.Module):
    """Maps of shape `here` to maps of shape `below`."""

    def __init__(self, here: tuple[int, ...], below: tuple[int, ...]) -> None:
        super().__init__()
        convolution: Any = nn.Conv1d if len(below) == 2 else nn.Conv2d
        self.sizes = below[1:]
        self.conv = convolution(here[0], below[0], 3, padding=1)

    def forward(self, r: Tensor) -> Tensor:
        """What the latent `r` (N, *here) says of the one below, (N, *below)."""
        h = r if tuple(r.shape[2:]) == tuple(self.sizes) else enlarge(r, self.sizes)
        below: Tensor = self.conv(h)
        return below
