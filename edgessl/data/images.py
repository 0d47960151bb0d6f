"""Folders of images, decoded by Pillow when they are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.folders import folder_classes, list_files
from edgessl.data.optional import require
from edgessl.data.source import Kind, checked_indices
from edgessl.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

# Grey modes that Pillow would clip to 8 bits; their full scale is 16 bits.
_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images (C,H,W) in [0,1]; see `open_images`."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    resize: bool
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    kind: Kind = "image"
    units: str = "intensity 0..1"
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Decode images; see Source.take. DataError names a file that cannot be decoded."""
        chosen = checked_indices(indices, len(self))
        values = np.empty((len(chosen), *self.shape), np.float32)
        for place, index in enumerate(chosen):
            values[place] = self._decode(self.files[index])
        return values

    def _decode(self, path: Path) -> NDArray[np.float32]:
        channels, height, width = self.shape
        image = _open(path)
        if image.size != (width, height):
            if not self.resize:
                raise DataError(
                    f"{path}: expected {height}x{width} pixels like the first image, found"
                    f" {image.size[1]}x{image.size[0]}; give size=(height, width)"
                )
            image = image.resize((width, height), require("PIL.Image").Resampling.BILINEAR)
        deep = image.mode == "F"
        pixels = np.asarray(image if deep else image.convert("L" if channels == 1 else "RGB"), np.float32)
        pixels = pixels / np.float32(65535 if deep else 255)
        # A grey plane fills every channel.
        return np.broadcast_to(pixels, self.shape) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def open_images(root: str | Path, *, size: tuple[int, int] | int | None = None, channels: int = 3) -> ImageFolder:
    """Open every image below `root`, in the order of their paths; nothing but the first is read yet.

    size: (height, width), or one number for a square; the whole image is stretched to it (bilinear,
        antialiased). By default the first image's, and then every image must have it.
    channels: 3 (RGB) or 1 (grey, ITU-R 601 luma). An alpha channel is dropped; 16-bit grey keeps its depth.
    Labels are the sub-folders of `root` if every image lies in one. Raises DataError.
    """
    root = Path(root)
    if channels not in (1, 3):
        raise ConfigError(f"channels is {channels}; images are read with 1 (grey) or 3 (RGB)")
    files = list_files(root, SUFFIXES)
    if not files:
        raise DataError(f"{root}: found no image; expected files ending in {', '.join(SUFFIXES)}")
    if size is None:
        width, height = _open(files[0]).size
    else:
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise ConfigError(f"size is {height}x{width}; both sides are 1 or more")
    labels, classes = folder_classes(root, files)
    return ImageFolder(tuple(files), (channels, height, width), size is not None, labels, classes)


def _open(path: Path) -> Any:
    """The decoded image, upright; deep grey as mode F with values 0..65535."""
    pillow, operations = require("PIL.Image"), require("PIL.ImageOps")
    try:
        with pillow.open(path) as image:
            if image.mode == "F":
                raise DataError(f"{path}: floating-point pixels have no full scale; save it as 8 or 16 bits")
            image.load()
            if image.mode in _DEEP_GREY:
                image = image.convert("F")
                if image.getextrema()[1] > 65535:
                    raise DataError(f"{path}: grey values above 65535; save it as 8 or 16 bits")
            return operations.exif_transpose(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds of error on a broken file
        raise DataError(f"{path}: cannot be decoded as an image ({error}); remove or repair it") from error
