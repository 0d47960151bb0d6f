"""Described, seeded drifts of data that a device may meet."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def tilt_in_low_light(images: Array, degrees: float = 35.0, noise: float = 0.3, seed: int = 0) -> Array:
    """The camera was knocked and the light went: every image turned by `degrees`, then Gaussian sensor noise.

    Args:
        images: `(N, C, H, W)` float32 in [0, 1].
        degrees: counter-clockwise turn about the centre, bilinear, what comes in from outside is 0.
        noise: standard deviation of the noise, in units of full scale; the sum is clipped to [0, 1].
        seed: of the noise; images keep their order.

    Returns:
        `(N, C, H, W)` float32 in [0, 1].
    """
    from scipy import ndimage

    turned = ndimage.rotate(images, degrees, axes=(3, 2), reshape=False, order=1)
    rng = np.random.default_rng([seed, 71])
    return (turned + noise * rng.standard_normal(turned.shape)).clip(0, 1).astype(np.float32)
