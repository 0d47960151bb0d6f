"""Views of feature vectors (N, n), one number per feature in a scale where differences mean something.

`sigma` is in the features' own units, since a sample does not tell how much each feature varies: give features that
share a scale, standardised or logarithms, which make a sensor's gain an offset. Masked values become the sample's mean.
After Bahri et al. 2022 (SCARF,
arXiv 2106.15147) and Ucar et al. 2021 (SubTab, arXiv 2110.04361), who corrupt single features and lose groups of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.errors import InputError
from edgessl.views.signals import normal
from edgessl.views.transform import Shape, check_axes, check_number, uniform


def _check_groups(name: str, group: object) -> None:
    if isinstance(group, bool) or not isinstance(group, int):
        check_number(name, "group", "not a whole number", 1, 1 << 16)
    check_number(name, "group", group, 1, 1 << 16)


def _groups(name: str, shape: Shape, group: int) -> int:
    """How many groups of `group` features after each other a sample has; InputError if they do not come out even."""
    check_axes(name, shape, "n")
    if shape[0] % group:
        raise InputError(f"{name}: groups of {group} do not divide {shape[0]} features; give a divisor, or 1")
    return shape[0] // group


def feature_offset(x: Tensor, u: Tensor, *, sigma: float, group: int) -> Tensor:
    """Add to each group of features an offset, Normal(0, sigma): of logarithms, a sensor whose gain has changed.

    u (N, groups rounded up to even): `signals.normal`'s columns; radii of 0 are identity.

    Args:
        x: (N, n).
        u: noise.
        sigma: in the features' own units.
        group: features of one sensor, after each other.
    """
    offsets = sigma * normal(u)[:, : x.shape[1] // group]
    return x + offsets.repeat_interleave(group, 1)


@dataclass(frozen=True)
class FeatureOffset:
    """`feature_offset`."""

    sigma: float = 0.1
    group: int = 1
    name: ClassVar[str] = "feature_offset"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 1e6)
        _check_groups(self.name, self.group)

    def width(self, shape: Shape) -> int:
        """One per group, rounded up to even."""
        groups = _groups(self.name, shape, self.group)
        return groups + groups % 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, n) for the noise u (N, width)."""
        return feature_offset(x, u, sigma=self.sigma, group=self.group)


def feature_noise(x: Tensor, u: Tensor, *, sigma: float) -> Tensor:
    """Add white noise, uniform, of standard deviation `sigma` in the features' units. u (N, n): 0.5 is identity."""
    width = math.sqrt(3) * sigma
    return x + uniform(u, (-width, width))


@dataclass(frozen=True)
class FeatureNoise:
    """`feature_noise`."""

    sigma: float = 0.1
    name: ClassVar[str] = "feature_noise"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 1e6)

    def width(self, shape: Shape) -> int:
        """n."""
        return _groups(self.name, shape, 1)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, n) for the noise u (N, width)."""
        return feature_noise(x, u, sigma=self.sigma)


def feature_mask(x: Tensor, u: Tensor, *, p: float, group: int) -> Tensor:
    """Set each group of features, with probability p, to the mean of the sample's values: a sensor that is silent.

    u (N, groups): group g is lost where u < p; all noise >= p is identity.
    """
    lost = (u < p).repeat_interleave(group, 1)
    return torch.where(lost, x.mean(1, keepdim=True), x)


@dataclass(frozen=True)
class FeatureMask:
    """`feature_mask`."""

    p: float = 0.1
    group: int = 1
    name: ClassVar[str] = "feature_mask"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)
        _check_groups(self.name, self.group)

    def width(self, shape: Shape) -> int:
        """One per group."""
        return _groups(self.name, shape, self.group)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, n) for the noise u (N, width)."""
        return feature_mask(x, u, p=self.p, group=self.group)
