"""Small sample pictures as data URIs, so that a report needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edgessl.errors import InputError


def data_uris(images: Sequence[Any], name: str) -> list[str]:
    """Gray PNG data URIs of 2-D arrays `(H, W)` with intensities 0 to 1 (outside, they are clipped).

    Raises:
        InputError: an array is not two-dimensional or not finite.
    """
    uris = []
    for i, image in enumerate(images):
        array = np.asarray(image, float)
        if array.ndim != 2 or not array.size or not np.isfinite(array).all():
            raise InputError(
                f"report data: samples.{name}[{i}]: expected a finite 2-D array, found shape {array.shape}"
            )
        buffer = io.BytesIO()
        levels = np.rint(255 * array.clip(0, 1)).astype(np.uint8)
        Image.fromarray(levels).save(buffer, format="png", optimize=True)
        uris.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return uris
