"""Embeddings of many samples, a part at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

ROWS = 256  # samples at a time
Float = npt.NDArray[np.float32]


def embed(encoder: Any, theta: Any, x: Float) -> Float:
    """Embeddings (N, D) of samples `x` (N, *shape) by an encoder runner with the weights `theta`."""
    return np.concatenate([encoder.embed(theta, x[i : i + ROWS]) for i in range(0, len(x), ROWS)])
