"""Views of latents: what a frozen backbone left, vectors (N, D) or maps (N, C, T), (N, L, D) and (N, C, H, W).

A latent cannot be turned into another photograph of the thing, so what varies is what the backbone would have varied:
gains and presence of its channels, noise, and the place within the map (`images.resized_crop` and
`images.horizontal_flip` work on maps as they are). The first axis counts as channels. Feature-space augmentation:
DeVries and Taylor 2017 (arXiv 1702.05538); channels that vanish as views of themselves: Gao et al. 2021 (SimCSE,
arXiv 2104.08821).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.views.sampling import bilinear, indices, window
from edgessl.views.signals import normal
from edgessl.views.transform import Interval, Shape, Transform, check_axes, check_interval, check_number, uniform

LAYOUTS = ("D", "CT", "CHW")


def token_views() -> tuple[Transform, ...]:
    """Default views of a transformer's latents, tokens (N, L, D): noise and missing tokens. Untuned."""
    return (LatentNoise(), LatentMask())


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, ...), to broadcast against `x`."""
    return values.reshape(*values.shape, *[1] * (x.ndim - 2))


def latent_gain(x: Tensor, u: Tensor, *, sigma: float) -> Tensor:
    """Multiply each channel by a factor that is log-normal with median 1: `exp(sigma * Normal(0, 1))`.

    A factor is never negative, so what a ReLU shut stays shut. u (N, C rounded up to even): `signals.normal`'s columns;
    radii of 0 are identity.
    """
    return x * _per_channel(torch.exp(sigma * normal(u)[:, : x.shape[1]]), x)


@dataclass(frozen=True)
class LatentGain:
    """`latent_gain`."""

    sigma: float = 0.3
    name: ClassVar[str] = "latent_gain"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 3)

    def width(self, shape: Shape) -> int:
        """C, rounded up to even."""
        check_axes(self.name, shape, *LAYOUTS)
        return shape[0] + shape[0] % 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, ...) for the noise u (N, width)."""
        return latent_gain(x, u, sigma=self.sigma)


def latent_noise(x: Tensor, u: Tensor, *, sigma: float) -> Tensor:
    """Add white noise, uniform with a standard deviation of `sigma` times the spread of the sample's values.

    The spread is the channel's own over the map, of a vector that of all its values. Uniform, since a map has many
    values and a logarithm for each would cost more than a small tail. u (N, values): 0.5 is identity.
    """
    axes = tuple(range(2, x.ndim)) or (1,)
    spread = torch.sqrt((x - x.mean(axes, keepdim=True)).square().mean(axes, keepdim=True))
    width = math.sqrt(3) * sigma
    return x + spread * uniform(u, (-width, width)).reshape(x.shape)


@dataclass(frozen=True)
class LatentNoise:
    """`latent_noise`."""

    sigma: float = 0.3
    name: ClassVar[str] = "latent_noise"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 10)

    def width(self, shape: Shape) -> int:
        """One number per value."""
        check_axes(self.name, shape, *LAYOUTS)
        return math.prod(shape)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, ...) for the noise u (N, width)."""
        return latent_noise(x, u, sigma=self.sigma)


def latent_mask(x: Tensor, u: Tensor, *, p: float) -> Tensor:
    """Silence each channel (of tokens: each token) with probability p, but never all of them; the rest stays as it is.

    0 is what a channel that found nothing says. The channel with the largest noise stays. u (N, C): channel c goes
    where u < p; all noise >= p is identity.
    """
    gone = (u < p) & (u < u.amax(1, keepdim=True))
    return torch.where(_per_channel(gone, x), torch.zeros_like(x), x)


@dataclass(frozen=True)
class LatentMask:
    """`latent_mask`."""

    p: float = 0.2
    name: ClassVar[str] = "latent_mask"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)

    def width(self, shape: Shape) -> int:
        """C."""
        check_axes(self.name, shape, *LAYOUTS)
        return shape[0]

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, ...) for the noise u (N, width)."""
        return latent_mask(x, u, p=self.p)


def time_crop(x: Tensor, u: Tensor, *, scale: Interval) -> Tensor:
    """Take a random span of the last axis and stretch it, linearly, over the whole of it.

    One matrix product per sample, as in `images.resized_crop`; nothing from outside the span leaks in. u (N, 2):
    length (0 is the longest), position. Identity: length 0 with a largest scale of 1.
    """
    steps = x.shape[-1]
    start, length = window(uniform(u[:, 0], (scale[1], scale[0])), u[:, 1], steps)
    inside = (indices(steps, x) + 0.5) * (length / steps) - 0.5
    matrix = bilinear(start + torch.minimum(inside.clamp(min=0), length - 1), steps)
    return torch.matmul(x, matrix.transpose(1, 2))


@dataclass(frozen=True)
class TimeCrop:
    """`time_crop`; maps over time and signals."""

    scale: Interval = (0.5, 1.0)
    name: ClassVar[str] = "time_crop"

    def __post_init__(self) -> None:
        check_interval(self.name, "scale", self.scale, 0.01, 1)

    def width(self, shape: Shape) -> int:
        """2."""
        check_axes(self.name, shape, "CT")
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return time_crop(x, u, scale=self.scale)
