"""Corruptions of severity 1 to 5, in numpy: a small set, named after Hendrycks and Dietterich 2019 where alike.

Each is `(x, severity, rng, std) -> x`: samples `(N, *shape)` float32 in their own units, a generator, and the channels'
standard deviations `(C,)`, in which strengths are given. Images are kept within [0, 1]. The set is our own and smaller
than ImageNet-C (arXiv 1903.12261): its figures compare encoders with each other, not with that benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgessl.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]
Corruption = Callable[[Array, int, np.random.Generator, Array], Array]
SEVERITIES = (1, 2, 3, 4, 5)


def _per_channel(std: Array, x: Array) -> Array:
    return np.asarray(std, np.float64).reshape(1, -1, *[1] * (x.ndim - 2))


def gaussian_noise(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """White noise of 0.1, 0.2, 0.4, 0.7 or 1 standard deviation of the channel."""
    return x + (0.1, 0.2, 0.4, 0.7, 1.0)[severity - 1] * _per_channel(std, x) * rng.standard_normal(x.shape)


def impulse_noise(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """1, 2, 4, 8 or 16 % of the values set to the sample's least or greatest."""
    axes = tuple(range(1, x.ndim))
    hit = rng.random(x.shape) < (0.01, 0.02, 0.04, 0.08, 0.16)[severity - 1]
    extremes = np.where(rng.random(x.shape) < 0.5, x.min(axes, keepdims=True), x.max(axes, keepdims=True))
    return np.where(hit, extremes, x)


def _blurred(x: Array, sigma: float, axes: tuple[int, ...]) -> Array:
    from scipy.ndimage import gaussian_filter1d

    for axis in axes:
        x = gaussian_filter1d(x, sigma, axis=axis, mode="nearest")
    return x


def gaussian_blur(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """Gaussian blur over both axes, sigma 1, 1.5, 2, 3 or 4 % of the shorter side and at least 0.4 pixels."""
    side = min(x.shape[2:])
    sigma = max((0.4, 0.6, 0.8, 1.0, 1.3)[severity - 1], (0.01, 0.015, 0.02, 0.03, 0.04)[severity - 1] * side)
    return _blurred(x, sigma, (2, 3))


def smoothing(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """A low-pass over time: Gaussian of sigma 0.5, 1, 2, 3 or 5 samples."""
    return _blurred(x, (0.5, 1.0, 2.0, 3.0, 5.0)[severity - 1], (x.ndim - 1,))


def contrast(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """Drawn towards the sample's mean: 75, 60, 45, 30 or 15 % of the contrast is left."""
    mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
    return mean + (0.75, 0.6, 0.45, 0.3, 0.15)[severity - 1] * (x - mean)


def brightness(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """0.1 to 0.5 of full scale added to an image."""
    return x + 0.1 * severity


def gain(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """A signal of another amplitude: 1.2, 1.4, 1.7, 2 or 2.5 times, or as much less, sample by sample."""
    factor = (1.2, 1.4, 1.7, 2.0, 2.5)[severity - 1]
    up = rng.random((len(x), *[1] * (x.ndim - 1))) < 0.5
    return x * np.where(up, factor, 1 / factor)


def level(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """A log spectrogram of another loudness: 0.25, 0.5, 1, 1.5 or 2 standard deviations added or taken away."""
    up = rng.random((len(x), *[1] * (x.ndim - 1))) < 0.5
    return x + (0.25, 0.5, 1.0, 1.5, 2.0)[severity - 1] * _per_channel(std, x) * np.where(up, 1, -1)


def baseline_drift(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """A slow wave (half to two periods of the window) of 0.25, 0.5, 1, 1.5 or 2 standard deviations on a signal."""
    size = (len(x), x.shape[1], 1)
    time = np.linspace(0, 1, x.shape[-1])
    wave = np.sin(2 * np.pi * (rng.uniform(0.5, 2, size) * time + rng.random(size)))
    return x + (0.25, 0.5, 1.0, 1.5, 2.0)[severity - 1] * _per_channel(std, x) * wave


def _blank(x: Array, share: float, rng: np.random.Generator, axes: tuple[int, ...]) -> Array:
    """A block of `share` of each of `axes` at a random place of each sample, set to the channel's mean there."""
    mask = np.ones((len(x), *[1] * (x.ndim - 1)), bool)
    for axis in axes:
        length = x.shape[axis]
        wide = max(1, round(share * length))
        start = rng.integers(0, length - wide + 1, len(x)).reshape(-1, *[1] * (x.ndim - 1))
        place = np.arange(length).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        mask = mask & (place >= start) & (place < start + wide)
    return np.where(mask, x.mean(axis=tuple(range(2, x.ndim)), keepdims=True), x)


def occlusion(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """A rectangle of 20 to 60 % of both sides blank."""
    return _blank(x, 0.1 + 0.1 * severity, rng, (2, 3))


def dropout(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """10 to 50 % of the time lost in one piece, held at the channel's mean."""
    return _blank(x, 0.1 * severity, rng, (x.ndim - 1,))


def band_loss(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """10 to 50 % of the frequencies of a spectrogram lost in one piece."""
    return _blank(x, 0.1 * severity, rng, (2,))


def _shifted(x: Array, share: float, rng: np.random.Generator, axes: tuple[int, ...]) -> Array:
    """Moved by up to `share` of each axis, either way, the edge held; no wrapping round."""
    for axis in axes:
        length = x.shape[axis]
        most = max(1, round(share * length))
        move = rng.integers(1, most + 1, len(x)) * rng.choice([-1, 1], len(x))
        index = np.clip(np.arange(length)[None] - move[:, None], 0, length - 1)
        shape = [1] * x.ndim
        shape[0], shape[axis] = index.shape
        x = np.take_along_axis(x, index.reshape(shape), axis)
    return x


def shift(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """Moved by up to 4, 8, 12, 16 or 20 % of both sides (images) or of the time, edges held."""
    return _shifted(x, 0.04 * severity, rng, (2, 3))


def time_shift(x: Array, severity: int, rng: np.random.Generator, std: Array) -> Array:
    """Moved in time by up to 4, 8, 12, 16 or 20 % of the window, edges held."""
    return _shifted(x, 0.04 * severity, rng, (x.ndim - 1,))


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "image": (gaussian_noise, impulse_noise, gaussian_blur, brightness, contrast, occlusion, shift),
    "signal": (gaussian_noise, impulse_noise, smoothing, gain, baseline_drift, dropout, time_shift),
    "spectrogram": (gaussian_noise, impulse_noise, smoothing, level, dropout, band_loss, time_shift),
}


def corrupt(samples: Array, kind: str, name: str, severity: int, std: Array, seed: int = 0) -> Array:
    """Samples `(N, *shape)` of `kind` under corruption `name` at `severity` 1 to 5, float32; the seed decides all.

    Raises:
        ConfigError: no such kind, corruption or severity.
    """
    known = {function.__name__: function for function in CORRUPTIONS.get(kind, ())}
    if name not in known or severity not in SEVERITIES:
        there = ", ".join(known) or f"none; kinds are {', '.join(CORRUPTIONS)}"
        raise ConfigError(f"{kind} has no corruption {name!r} of severity {severity!r} (1 to 5); there are {there}")
    rng = np.random.default_rng([seed, severity, list(known).index(name)])
    changed = known[name](samples.astype(np.float64), severity, rng, std)
    if kind == "image":
        changed = changed.clip(0, 1)
    return np.ascontiguousarray(changed, np.float32)
