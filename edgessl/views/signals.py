"""Views of sensor windows (N, C, T) in physical units: none assumes a unit, a rate or a mean of zero.

Noise is relative to the window's own spread, fills are the window's own mean. `time_mask` serves spectrograms
too. After Um et al. 2017 (scaling, jitter, rotation of wearable sensors) and Tang et al. 2020 (the same for
contrastive learning).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgessl.errors import InputError
from edgessl.views.sampling import indices
from edgessl.views.transform import Shape, check_axes, check_number, uniform


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers (N, 2m) from uniform [0, 1) ones (N, 2m), by Box and Muller (1958).

    The first half of the columns are radii, the second half angles; radii of 0 give zeros.
    """
    radius, angle = u.chunk(2, 1)
    radius, angle = torch.sqrt(-2 * torch.log(1 - radius)), 2 * math.pi * angle
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)


def _even(count: int) -> int:
    return count + count % 2


def _check_triples(name: str, channels: int) -> None:
    if channels % 3:
        raise InputError(
            f"{name}: expected channels in triples x, y, z (C a multiple of 3); found C = {channels}: "
            "leave it out for sensors that are not three-axis"
        )


def frame_rotation(x: Tensor, u: Tensor, *, degrees: float) -> Tensor:
    """Turn the sensor in its mount: one random rotation for every (x, y, z) triple of channels.

    Accelerometer and gyroscope triples turn together, as they do when the device is worn differently. The
    axis is uniform on the sphere, the angle uniform in [-degrees, degrees] (so 180 is any rotation, not the
    Haar measure); Rodrigues' formula. u (N, 3): angle, height of the axis, its azimuth; angle noise 0.5 is
    identity.

    Raises:
        InputError: C is not a multiple of 3.
    """
    n, channels, length = x.shape
    _check_triples("frame_rotation", channels)
    angle = uniform(u[:, 0], (-math.radians(degrees), math.radians(degrees))).reshape(n, 1, 1)
    c = uniform(u[:, 1], (-1, 1))
    azimuth = 2 * math.pi * u[:, 2]
    ring = torch.sqrt((1 - c * c).clamp(min=0))
    a, b = ring * torch.cos(azimuth), ring * torch.sin(azimuth)
    zero = torch.zeros_like(a)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).reshape(n, 3, 3)
    turn = torch.sin(angle) * cross + (1 - torch.cos(angle)) * torch.matmul(cross, cross)
    triples = x.reshape(n, channels // 3, 3, length)
    return (triples + torch.matmul(turn.unsqueeze(1), triples)).reshape(x.shape)


@dataclass(frozen=True)
class FrameRotation:
    """`frame_rotation`; three-axis sensors only, channels in triples."""

    degrees: float = 30.0
    name: ClassVar[str] = "frame_rotation"

    def __post_init__(self) -> None:
        check_number(self.name, "degrees", self.degrees, 0, 180)

    def width(self, shape: Shape) -> int:
        """3."""
        check_axes(self.name, shape, "CT")
        _check_triples(self.name, shape[0])
        return 3

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return frame_rotation(x, u, degrees=self.degrees)


def scaling(x: Tensor, u: Tensor, *, sigma: float) -> Tensor:
    """Multiply each channel by a factor drawn from Normal(1, sigma): gains differ between devices.

    u (N, C rounded up to even): `normal`'s columns; radii of 0 are identity.
    """
    return x + x * (sigma * normal(u)[:, : x.shape[1]]).unsqueeze(2)


@dataclass(frozen=True)
class Scaling:
    """`scaling`."""

    sigma: float = 0.1
    name: ClassVar[str] = "scaling"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 1)

    def width(self, shape: Shape) -> int:
        """C, rounded up to even."""
        check_axes(self.name, shape, "CT")
        return _even(shape[0])

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return scaling(x, u, sigma=self.sigma)


def jitter(x: Tensor, u: Tensor, *, sigma: float) -> Tensor:
    """Add white Gaussian noise of standard deviation `sigma` times the channel's own over the window.

    A constant channel stays as it is. u (N, C T rounded up to even): `normal`'s columns; radii of 0 are
    identity.
    """
    spread = torch.sqrt((x - x.mean(2, keepdim=True)).square().mean(2, keepdim=True))
    return x + sigma * spread * normal(u)[:, : x[0].numel()].reshape(x.shape)


@dataclass(frozen=True)
class Jitter:
    """`jitter`."""

    sigma: float = 0.05
    name: ClassVar[str] = "jitter"

    def __post_init__(self) -> None:
        check_number(self.name, "sigma", self.sigma, 0, 10)

    def width(self, shape: Shape) -> int:
        """C T, rounded up to even: one number per value."""
        check_axes(self.name, shape, "CT")
        return _even(shape[0] * shape[1])

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return jitter(x, u, sigma=self.sigma)


def time_shift(x: Tensor, u: Tensor, *, fraction: float) -> Tensor:
    """Shift the window in time, circularly, by whole steps up to `fraction` of its length either way.

    Every value is kept exactly and so is the magnitude spectrum, which fractional steps would not; the price
    is one jump at the seam. All channels move together. u (N, 1): 0.5 is identity, larger is later.
    """
    n, channels, length = x.shape
    furthest = int(fraction * length)
    shift = torch.floor((2 * furthest + 1) * u) - furthest
    source = indices(length, x) - shift
    source = source + length * (source < 0) - length * (source >= length)
    return torch.gather(x, 2, source.to(torch.int64).unsqueeze(1).expand(n, channels, length))


@dataclass(frozen=True)
class TimeShift:
    """`time_shift`."""

    fraction: float = 0.1
    name: ClassVar[str] = "time_shift"

    def __post_init__(self) -> None:
        check_number(self.name, "fraction", self.fraction, 0, 0.5)

    def width(self, shape: Shape) -> int:
        """1."""
        check_axes(self.name, shape, "CT")
        return 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return time_shift(x, u, fraction=self.fraction)


def time_mask(x: Tensor, u: Tensor, *, fraction: float) -> Tensor:
    """Set one span of time to each channel's own mean over the sample (SpecAugment, Park et al. 2019).

    The span is 0 to `fraction` of the last axis long, in whole steps, uniform, and lies anywhere.
    u (N, 2): length, position; length noise 0 is identity.

    Args:
        x: (N, C, T), or a spectrogram (N, C, F, T).
        u: (N, 2).
        fraction: longest span, rounded down to steps.
    """
    steps = x.shape[-1]
    length = torch.floor((int(fraction * steps) + 1) * u[:, 0:1])
    start = torch.floor((steps - length + 1) * u[:, 1:2])
    i = indices(steps, x)
    span = (i >= start) & (i < start + length)
    mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    return torch.where(span.reshape(-1, *[1] * (x.ndim - 2), steps), mean, x)


@dataclass(frozen=True)
class TimeMask:
    """`time_mask`; signals and spectrograms."""

    fraction: float = 0.2
    name: ClassVar[str] = "time_mask"

    def __post_init__(self) -> None:
        check_number(self.name, "fraction", self.fraction, 0, 1)

    def width(self, shape: Shape) -> int:
        """2."""
        check_axes(self.name, shape, "CT", "CFT")
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) or (N, C, F, T) for the noise u (N, width)."""
        return time_mask(x, u, fraction=self.fraction)


def channel_drop(x: Tensor, u: Tensor, *, p: float) -> Tensor:
    """Flatten each channel to its own mean over the window with probability p, but never all of them.

    The channel with the largest noise stays. The mean and not 0, which may be far outside what the sensor
    ever reads. u (N, C): channel c is dropped where u < p; all noise >= p is identity.
    """
    dropped = (u < p) & (u < u.amax(1, keepdim=True))
    return torch.where(dropped.unsqueeze(2), x.mean(2, keepdim=True), x)


@dataclass(frozen=True)
class ChannelDrop:
    """`channel_drop`."""

    p: float = 0.1
    name: ClassVar[str] = "channel_drop"

    def __post_init__(self) -> None:
        check_number(self.name, "p", self.p, 0, 1)

    def width(self, shape: Shape) -> int:
        """C."""
        check_axes(self.name, shape, "CT")
        return shape[0]

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of x (N, C, T) for the noise u (N, width)."""
        return channel_drop(x, u, p=self.p)
