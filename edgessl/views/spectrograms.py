"""Views of spectrograms (N, C, F, T): masks after SpecAugment (Park et al. 2019) and a change of volume.

`time_mask` is the one of signals. `images.resized_crop` and `images.translate` work on spectrograms as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.views.signals import TimeMask, time_mask
from edgessl.views.transform import Shape, check_axes, check_number, per_sample, uniform

__all__ = ["FrequencyMask", "Gain", "TimeMask", "frequency_mask", "gain", "time_mask"]


def frequency_mask(x: Tensor, u: Tensor, *, fraction: float) -> Tensor:
    """`time_mask` along the frequency axis: one band of at most `fraction` of the F bins. u (N, 2)."""
    return time_mask(x.transpose(2, 3), u, fraction=fraction).transpose(2, 3)


@dataclass(frozen=True)
class FrequencyMask:
    """`frequency_mask`."""

    fraction: float = 0.2
    name: ClassVar[str] = "frequency_mask"

    def __post_init__(self) -> None:
        check_number(self.name, "fraction", self.fraction, 0, 1)

    def width(self, shape: Shape) -> int:
        """2."""
        check_axes(self.name, shape, "CFT")
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, F, T) for the noise u (N, width)."""
        return frequency_mask(x, u, fraction=self.fraction)


def gain(x: Tensor, u: Tensor, *, strength: float) -> Tensor:
    """Change the volume: shift a log spectrogram by up to `strength` times its own standard deviation.

    u (N, 1): 0.5 is identity, larger is louder.
    """
    axes = (1, 2, 3)
    spread = torch.sqrt((x - x.mean(axes, keepdim=True)).square().mean(axes, keepdim=True))
    return x + per_sample(uniform(u[:, 0], (-strength, strength)), x) * spread


@dataclass(frozen=True)
class Gain:
    """`gain`; log spectrograms."""

    strength: float = 0.5
    name: ClassVar[str] = "gain"

    def __post_init__(self) -> None:
        check_number(self.name, "strength", self.strength, 0, 10)

    def width(self, shape: Shape) -> int:
        """1."""
        check_axes(self.name, shape, "CFT")
        return 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, F, T) for the noise u (N, width)."""
        return gain(x, u, strength=self.strength)
