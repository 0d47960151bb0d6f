"""How a sample lies in a slot of the replay memory: as it is, or as one byte a value."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError

Float = npt.NDArray[np.float32]


class Codec(Protocol):
    """Turns float32 samples into arrays of `dtype` and of the same shape, and back.

    Two codecs with the same `name` MUST write the same bytes: a saved memory is opened by the codec it names.
    """

    @property
    def name(self) -> str:
        """What was chosen, with every setting."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a stored value."""

    def encode(self, samples: Float) -> tuple[Array, int]:
        """Stored form of `samples` (any shape), and how many values lay beyond what it can hold."""

    def decode(self, stored: Array) -> Float:
        """Samples float32 from their stored form."""


@dataclass(frozen=True)
class RawCodec:
    """float32, four bytes a value, bit for bit."""

    @property
    def name(self) -> str:
        """float32."""
        return "float32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def encode(self, samples: Float) -> tuple[Array, int]:
        """The samples themselves."""
        return samples, 0

    def decode(self, stored: Array) -> Float:
        """The samples themselves."""
        return stored


@dataclass(frozen=True)
class ByteCodec:
    """uint8, one byte a value: value = scale * (byte - zero_point), rounded to the nearest.

    Exact for 8-bit pixels given as k / 255 (`ByteCodec(1 / 255)`, the default); elsewhere wrong by at most half a
    `scale` within [-scale * zero_point, scale * (255 - zero_point)]. A value more than half a scale beyond that is
    stored as the end of the range and counted, so that a range chosen too small shows (`saturated_values`).
    """

    scale: float = 1 / 255
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.scale < np.inf and 0 <= self.zero_point <= 255):
            raise ConfigError(
                f"uint8 codec: expected a finite scale > 0 and a zero point from 0 to 255, "
                f"found {self.scale} and {self.zero_point}"
            )

    @property
    def name(self) -> str:
        """uint8 with both numbers."""
        return f"uint8 {self.scale!r} {self.zero_point}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return np.dtype(np.uint8)

    def encode(self, samples: Float) -> tuple[Array, int]:
        """Bytes, and how many values were more than half a scale outside the range."""
        level = np.rint(samples / np.float64(self.scale)) + self.zero_point
        beyond = int(np.count_nonzero((level < 0) | (level > 255)))
        return np.clip(level, 0, 255).astype(np.uint8), beyond

    def decode(self, stored: Array) -> Float:
        """The values that the bytes stand for."""
        table = (self.scale * (np.arange(256) - self.zero_point)).astype(np.float32)
        out: Float = table[stored]
        return out
