"""scikit-learn's handwritten digits (UCI optical recognition, 1797 of 8x8): real images inside a package."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgessl.data.arrays import ArraySource, array_source
from edgessl.data.optional import require
from edgessl.errors import ConfigError

TRAIN_COUNT = 1200


def open_digits(split: Literal["train", "test"] = "train", size: int = 16) -> ArraySource:
    """Images (1,size,size) in [0,1], labels 0..9: the first 1200 in the package's order, or the last 597.

    size: a multiple of 8; the 8x8 images are enlarged bilinearly (half-pixel centres, edges held), which is
    exact in float32 for 8, 16, 32 and 64.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"digits have no split {split!r}; expected 'train' or 'test'")
    if size < 8 or size % 8:
        raise ConfigError(f"digits of size {size}; expected a multiple of 8")
    found = require("sklearn.datasets").load_digits()
    part = slice(TRAIN_COUNT) if split == "train" else slice(TRAIN_COUNT, None)
    images = enlarge(found.images[part] / 16.0, size // 8).astype(np.float32)
    return array_source(images, labels=found.target[part], kind="image", name=f"digits:{split}")


def enlarge(images: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Images (N,H,W) enlarged bilinearly by an integer factor: float64 (N, H*factor, W*factor)."""
    rows, columns = (_weights(side, factor) for side in images.shape[1:])
    return np.einsum("ih,nhw,jw->nij", rows, images.astype(np.float64), columns, optimize=True)


def _weights(side: int, factor: int) -> NDArray[np.float64]:
    """(side * factor, side): each row holds the two weights of one enlarged pixel."""
    centre = np.clip((np.arange(side * factor) + 0.5) / factor - 0.5, 0, side - 1)
    return np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(side)))
