"""Where things are in an image: crop, flip, rotation, translation, blur, erasing. Colours are in `colors`.

Batches are (N, C, H, W). Crop, translation and blur are separable, so each is two batched matrix products
with one matrix per sample and axis; rotation is four gathers, which stock onnxruntime runs many times faster
than its GridSample or than three shears as matrix products. Pixels beyond the border repeat the border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.errors import InputError
from edgessl.views.sampling import bilinear, indices, separable, window
from edgessl.views.transform import (
    Interval,
    Shape,
    check_axes,
    check_interval,
    check_number,
    gate,
    uniform,
)


def resized_crop(x: Tensor, u: Tensor, *, scale: Interval, ratio: Interval) -> Tensor:
    """Crop a random box and resize it, bilinearly, to the size of the input (Szegedy et al. 2015).

    Equals `interpolate(align_corners=False)` of the cropped region: nothing from outside the box leaks in. A
    box is never larger than the image, so no antialiasing is needed. u (N, 4): area (0 is the largest),
    shape, vertical and horizontal position. Identity: area 0 and shape 0.5 with a largest scale of 1 and
    ratios symmetric about 1.

    Args:
        x: (N, C, H, W), any range; spectrograms (N, C, F, T) too.
        u: (N, 4).
        scale: area of the box as a fraction of the image's, drawn uniformly.
        ratio: width over height of the box, relative to the image's own (1 keeps its proportions), drawn
            log-uniformly. A side that would exceed the image is cut to it.
    """
    height, width = x.shape[2:]
    area = uniform(u[:, 0], (scale[1], scale[0]))
    aspect = torch.exp(uniform(u[:, 1], (math.log(ratio[0]), math.log(ratio[1]))))
    matrices = []
    for fraction, position, size in (
        (torch.sqrt(area / aspect), u[:, 2], height),
        (torch.sqrt(area * aspect), u[:, 3], width),
    ):
        start, length = window(fraction, position, size)
        inside = (indices(size, x) + 0.5) * (length / size) - 0.5
        matrices.append(bilinear(start + torch.minimum(inside.clamp(min=0), length - 1), size))
    return separable(x, *matrices)


@dataclass(frozen=True)
class ResizedCrop:
    """`resized_crop`; also for spectrograms, where it stretches time and frequency."""

    scale: Interval = (0.2, 1.0)
    ratio: Interval = (3 / 4, 4 / 3)
    name: ClassVar[str] = "resized_crop"

    def __post_init__(self) -> None:
        check_interval(self.name, "scale", self.scale, 0.01, 1)
        check_interval(self.name, "ratio", self.ratio, 0.1, 10)

    def width(self, shape: Shape) -> int:
        """4."""
        check_axes(self.name, shape, "CHW")
        return 4

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return resized_crop(x, u, scale=self.scale, ratio=self.ratio)


def horizontal_flip(x: Tensor, u: Tensor, *, p: float) -> Tensor:
    """Mirror left and right with probability p. u (N, 1): flipped where u < p, else identity."""
    return torch.where(gate(u[:, 0], p, x), torch.flip(x, (3,)), x)


@dataclass(frozen=True)
class HorizontalFlip:
    """`horizontal_flip`."""

    p: float = 0.5
    name: ClassVar[str] = "horizontal_flip"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)

    def width(self, shape: Shape) -> int:
        """1."""
        check_axes(self.name, shape, "CHW")
        return 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return horizontal_flip(x, u, p=self.p)


def rotation(x: Tensor, u: Tensor, *, degrees: float) -> Tensor:
    """Rotate about the centre by an angle uniform in [-degrees, degrees].

    Bilinear; positive is counter-clockwise on the screen. u (N, 1): the angle; 0.5 is identity. H and W must
    be at least 2.
    """
    n, channels, height, width = x.shape
    angle = uniform(u[:, 0], (-math.radians(degrees), math.radians(degrees)))
    cos, sin = torch.cos(angle).reshape(n, 1, 1), torch.sin(angle).reshape(n, 1, 1)
    down = (indices(height, x) - (height - 1) / 2).unsqueeze(1)
    right = (indices(width, x) - (width - 1) / 2).unsqueeze(0)
    row = (cos * down + sin * right + (height - 1) / 2).clamp(0, height - 1)
    column = (cos * right - sin * down + (width - 1) / 2).clamp(0, width - 1)
    # The upper left of the four neighbours stops one short of the border, so that all four exist.
    top, left = torch.floor(row).clamp(max=height - 2), torch.floor(column).clamp(max=width - 2)
    row_part, column_part = (row - top).reshape(n, 1, -1), (column - left).reshape(n, 1, -1)
    corner = (top.to(torch.int64) * width + left.to(torch.int64)).reshape(n, 1, -1).expand(n, channels, -1)
    pixels = x.reshape(n, channels, -1)

    def line(first: Tensor) -> Tensor:
        a, b = torch.gather(pixels, 2, first), torch.gather(pixels, 2, first + 1)
        return a + column_part * (b - a)

    upper, lower = line(corner), line(corner + width)
    return (upper + row_part * (lower - upper)).reshape(x.shape)


@dataclass(frozen=True)
class Rotation:
    """`rotation`."""

    degrees: float = 10.0
    name: ClassVar[str] = "rotation"

    def __post_init__(self) -> None:
        check_number(self.name, "degrees", self.degrees, 0, 180)

    def width(self, shape: Shape) -> int:
        """1."""
        check_axes(self.name, shape, "CHW")
        if min(shape[1:]) < 2:
            raise InputError(f"{self.name}: expected images of at least 2 x 2 pixels; found {tuple(shape)}")
        return 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return rotation(x, u, degrees=self.degrees)


def translate(x: Tensor, u: Tensor, *, fraction: float) -> Tensor:
    """Move the image by up to `fraction` of each side, to subpixels (bilinear).

    u (N, 2): down, right; 0.5 is identity, larger moves the content down or to the right.
    """
    matrices = []
    for axis, size in enumerate(x.shape[2:]):
        move = uniform(u[:, axis], (-fraction * size, fraction * size))
        matrices.append(bilinear(indices(size, x) - move.unsqueeze(1), size))
    return separable(x, *matrices)


@dataclass(frozen=True)
class Translate:
    """`translate`."""

    fraction: float = 0.1
    name: ClassVar[str] = "translate"

    def __post_init__(self) -> None:
        check_number(self.name, "fraction", self.fraction, 0, 1)

    def width(self, shape: Shape) -> int:
        """2."""
        check_axes(self.name, shape, "CHW")
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return translate(x, u, fraction=self.fraction)


def gaussian_blur(x: Tensor, u: Tensor, *, p: float, sigma: Interval) -> Tensor:
    """Blur with a Gaussian whose width, in pixels, is uniform in `sigma`, with probability p.

    The kernel spans the whole image and is renormalised where the border cuts it. u (N, 2): blurred where the
    first is < p, else identity; the second is the width.
    """
    width = uniform(u[:, 1], sigma).reshape(-1, 1, 1)

    def kernel(size: int) -> Tensor:
        i = indices(size, x)
        weight = torch.exp(-0.5 * ((i.unsqueeze(1) - i) / width).square())
        return weight / weight.sum(2, keepdim=True)

    return torch.where(gate(u[:, 0], p, x), separable(x, kernel(x.shape[2]), kernel(x.shape[3])), x)


@dataclass(frozen=True)
class GaussianBlur:
    """`gaussian_blur`."""

    p: float = 0.5
    sigma: Interval = (0.1, 2.0)
    name: ClassVar[str] = "gaussian_blur"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)
        check_interval(self.name, "sigma", self.sigma, 0.01, 1000)

    def width(self, shape: Shape) -> int:
        """2."""
        check_axes(self.name, shape, "CHW")
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return gaussian_blur(x, u, p=self.p, sigma=self.sigma)


def erase(x: Tensor, u: Tensor, *, p: float, scale: Interval, ratio: Interval, value: float | None) -> Tensor:
    """Fill a random box with one value, with probability p (random erasing, Zhong et al. 2020).

    The box has fractional edges: a pixel it covers in part is blended in part, which keeps the operation
    continuous in its noise, so that two runtimes that differ in the last bit of an exponential agree to the
    last bits of the image. u (N, 5): erased where the first is < p, else identity; area, shape, vertical and
    horizontal position.

    Args:
        x: (N, C, H, W).
        u: (N, 5).
        p: probability.
        scale: area of the box as a fraction of the image's, drawn uniformly.
        ratio: width over height of the box relative to the image's own, drawn log-uniformly.
        value: what to fill with; None is the sample's own mean, per channel.
    """
    area = uniform(u[:, 1], scale)
    aspect = torch.exp(uniform(u[:, 2], (math.log(ratio[0]), math.log(ratio[1]))))
    coverage = []
    for fraction, position, size in (
        (torch.sqrt(area / aspect), u[:, 3], x.shape[2]),
        (torch.sqrt(area * aspect), u[:, 4], x.shape[3]),
    ):
        start, length = window(fraction, position, size)
        i = indices(size, x)
        coverage.append((torch.minimum(start + length, i + 1) - torch.maximum(start, i)).clamp(min=0))
    box = coverage[0][:, None, :, None] * coverage[1][:, None, None, :] * gate(u[:, 0], p, x)
    fill = x.mean((2, 3), keepdim=True) if value is None else value
    return x + box * (fill - x)


@dataclass(frozen=True)
class Erase:
    """`erase`."""

    p: float = 0.5
    scale: Interval = (0.02, 0.2)
    ratio: Interval = (0.3, 3.3)
    value: float | None = None
    name: ClassVar[str] = "erase"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)
        check_interval(self.name, "scale", self.scale, 0, 1)
        check_interval(self.name, "ratio", self.ratio, 0.1, 10)
        if self.value is not None:
            check_number(self.name, "value", self.value, 0, 1)

    def width(self, shape: Shape) -> int:
        """5."""
        check_axes(self.name, shape, "CHW")
        return 5

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, H, W) for the noise u (N, width)."""
        return erase(x, u, p=self.p, scale=self.scale, ratio=self.ratio, value=self.value)
