"""How a float graph becomes an integer one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgessl.errors import ConfigError
from export.quantize.calibration import METHODS

FLOAT = 32  # bits of a layer that is left as it is
WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Settings:
    """How to quantize.

    Attributes:
        method: of calibration: minmax, percentile, entropy or mse.
        weight_bits: of the weights, always stored in int8. 7, not 8, on ONNX Runtime's CPU: x64 processors without VNNI
            add pairs of uint8 x int8 products in 16 bits, which saturate, and a full-range model that is right on one
            machine is wrong on the next. TensorRT's form takes 8.
        equalize: scale channels of neighbouring convolutions to each other first.
        correct_bias: move biases so that the mean of what each layer gives stays what it was.
        layer_bits: of the weights of single layers by name, in place of `weight_bits`; 32 leaves a layer in float.

    Raises:
        ConfigError: unknown method, or bits out of range.
    """

    method: str = "minmax"
    weight_bits: int = 7
    equalize: bool = False
    correct_bias: bool = False
    layer_bits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"unknown calibration {self.method!r}; choose one of {', '.join(METHODS)}")
        for bits in (self.weight_bits, *(b for b in self.layer_bits.values() if b != FLOAT)):
            if bits not in WEIGHT_BITS:
                raise ConfigError(f"weight bits {bits!r}: expected 2 to 8")

    def bits(self, layer: str) -> int:
        """Bits of the weights of the layer of that name; 32 for float."""
        return self.layer_bits.get(layer, self.weight_bits)
