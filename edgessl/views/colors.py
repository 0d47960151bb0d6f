"""What colour and brightness an image has: colour jitter and greyscale, for batches (N, C, H, W) in [0, 1].

Each operation is written as x + (its change), so that no change is exactly x, and ends clamped to [0, 1]. The
factors are those of torchvision's ColorJitter; the order is always brightness, contrast, saturation, hue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.errors import InputError
from edgessl.views.transform import Shape, check_axes, check_number, gate, per_sample, uniform

_RGB_TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
)
_YIQ_TO_RGB = torch.linalg.inv(_RGB_TO_YIQ)


def _through_yiq(matrix: list[list[float]]) -> list[list[float]]:
    """A 3 x 3 matrix that acts on YIQ, as one that acts on RGB."""
    return (_YIQ_TO_RGB @ torch.tensor(matrix, dtype=torch.float64) @ _RGB_TO_YIQ).tolist()


_CHROMA = _through_yiq([[0, 0, 0], [0, 1, 0], [0, 0, 1]])
_CHROMA_TURNED = _through_yiq([[0, 0, 0], [0, 0, -1], [0, 1, 0]])


def luma(x: Tensor) -> Tensor:
    """Perceived brightness (N, 1, H, W) of RGB images (N, 3, H, W): ITU-R BT.601 weights."""
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def _change(u: Tensor, strength: float, x: Tensor) -> Tensor:
    return per_sample(uniform(u[:, 0], (-strength, strength)), x)


def adjust_brightness(x: Tensor, u: Tensor, *, strength: float) -> Tensor:
    """Multiply by a factor uniform in [1 - strength, 1 + strength]. u (N, 1): 0.5 is identity."""
    return (x + _change(u, strength, x) * x).clamp(0, 1)


def adjust_contrast(x: Tensor, u: Tensor, *, strength: float) -> Tensor:
    """Multiply the distance from the image's mean luma by a factor uniform in [1 - strength, 1 + strength].

    With C != 3 the mean is over all channels. u (N, 1): 0.5 is identity.
    """
    mean = (luma(x) if x.shape[1] == 3 else x).mean((1, 2, 3), keepdim=True)
    return (x + _change(u, strength, x) * (x - mean)).clamp(0, 1)


def adjust_saturation(x: Tensor, u: Tensor, *, strength: float) -> Tensor:
    """Multiply each pixel's distance from its luma by a factor uniform in [1 - strength, 1 + strength].

    Identity for C != 3. u (N, 1): 0.5 is identity.
    """
    if x.shape[1] != 3:
        return x
    return (x + _change(u, strength, x) * (x - luma(x))).clamp(0, 1)


def adjust_hue(x: Tensor, u: Tensor, *, strength: float) -> Tensor:
    """Turn the chroma plane (I and Q of YIQ) by an angle uniform in [-strength, strength] turns; luma stays.

    A rotation, one 3 x 3 matrix per sample, in place of torchvision's way through HSV, which branches on the
    largest channel. Identity for C != 3. u (N, 1): 0.5 is identity.
    """
    if x.shape[1] != 3:
        return x
    angle = uniform(u[:, 0], (-2 * math.pi * strength, 2 * math.pi * strength)).reshape(-1, 1, 1)
    chroma = torch.tensor(_CHROMA, dtype=x.dtype, device=x.device)
    turned = torch.tensor(_CHROMA_TURNED, dtype=x.dtype, device=x.device)
    change = (torch.cos(angle) - 1) * chroma + torch.sin(angle) * turned
    return (x + torch.matmul(change, x.flatten(2)).reshape(x.shape)).clamp(0, 1)


def color_jitter(
    x: Tensor, u: Tensor, *, brightness: float, contrast: float, saturation: float, hue: float, p: float
) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, with probability p (SimCLR, Chen et al. 2020).

    u (N, 5), or (N, 3) for C != 3: jittered where the first is < p, else identity; then one per operation.
    """
    y = adjust_brightness(x, u[:, 1:2], strength=brightness)
    y = adjust_contrast(y, u[:, 2:3], strength=contrast)
    if x.shape[1] == 3:
        y = adjust_saturation(y, u[:, 3:4], strength=saturation)
        y = adjust_hue(y, u[:, 4:5], strength=hue)
    return torch.where(gate(u[:, 0], p, x), y, x)


@dataclass(frozen=True)
class ColorJitter:
    """`color_jitter`; strengths 0 to 1, hue in turns 0 to 0.5."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8
    name: ClassVar[str] = "color_jitter"

    def __post_init__(self) -> None:
        for option in ("brightness", "contrast", "saturation", "p"):
            check_number(self.name, option, getattr(self, option), 0, 1)
        check_number(self.name, "hue", self.hue, 0, 0.5)

    def width(self, shape: Shape) -> int:
        """5 for colour, 3 without saturation and hue where C != 3."""
        check_axes(self.name, shape, "CHW")
        return 5 if shape[0] == 3 else 3

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return color_jitter(
            x,
            u,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
            p=self.p,
        )


def grayscale(x: Tensor, u: Tensor, *, p: float) -> Tensor:
    """Replace all three channels by the luma with probability p. u (N, 1): grey where u < p, else identity.

    Raises:
        InputError: C is not 3.
    """
    if x.shape[1] != 3:
        raise InputError(f"grayscale: expected images of 3 channels; found {x.shape[1]}: leave it out")
    return torch.where(gate(u[:, 0], p, x), luma(x), x)


@dataclass(frozen=True)
class Grayscale:
    """`grayscale`; images with C = 3 only."""

    p: float = 0.2
    name: ClassVar[str] = "grayscale"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)

    def width(self, shape: Shape) -> int:
        """1."""
        check_axes(self.name, shape, "CHW")
        if shape[0] != 3:
            raise InputError(f"{self.name}: expected samples (3, H, W); found {tuple(shape)}: leave it out")
        return 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, 3, H, W) for the noise u (N, width)."""
        return grayscale(x, u, p=self.p)
