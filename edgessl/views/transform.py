"""What a transform is, and the small parts that every transform shares.

A transform is a frozen dataclass over one pure function `fn(x, u, *, options) -> Tensor`. `x` is a batch (N,
*shape) and `u` is uniform [0, 1) noise (N, k) of the same dtype: sample i depends on row i of both and on
nothing else. The functions are traced into the training graph, so they branch on shapes and options only,
never on values, and they write nothing in place. Dataclass fields are the options and hold JSON values (an
interval is a pair).
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor

from edgessl.errors import ConfigError, InputError

Shape = tuple[int, ...]
Interval = tuple[float, float]


class Transform(Protocol):
    """One random operation on a batch: its name in the registry, its noise columns, and the operation."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def width(self, shape: Shape) -> int:
        """Noise columns for a sample of this shape; InputError if the operation does not apply to it."""
        ...

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The view of `x` (N, *shape) that the noise `u` (N, width(shape)) stands for."""
        ...


def check_number(name: str, option: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name}: option {option!r} is {value!r}; give a number from {low:g} to {high:g}")


def check_interval(name: str, option: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is a pair of numbers in [low, high], the smaller first."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ConfigError(f"{name}: option {option!r} is {value!r}; give a pair [smallest, largest]")
    for end in value:
        check_number(name, option, end, low, high)
    if value[0] > value[1]:
        raise ConfigError(f"{name}: option {option!r} is {list(value)}; give the smaller number first")


def check_axes(name: str, shape: Shape, *layouts: str) -> None:
    """Raise InputError unless `shape` has the axes of one of `layouts`, e.g. "CHW", none of them empty."""
    if len(shape) not in map(len, layouts) or min(shape) < 1:
        wanted = " or ".join("(" + ", ".join(layout) + ")" for layout in layouts)
        raise InputError(f"{name}: expected samples {wanted}, no axis empty; found {tuple(shape)}")


def uniform(u: Tensor, interval: Interval) -> Tensor:
    """Stretch noise from [0, 1) to the interval."""
    low, high = interval
    return low + (high - low) * u


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(N,) -> (N, 1, ..., 1), to broadcast against `x`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def gate(u: Tensor, p: float, x: Tensor) -> Tensor:
    """Whether each sample gets the operation: u < p, as booleans (N, 1, ..., 1)."""
    return per_sample(u < p, x)
