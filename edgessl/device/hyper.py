"""The scalars of a training step that a device may turn without a new export."""

import math
from collections.abc import Iterator, Mapping

from edgessl.errors import ConfigError


class HyperParameters(Mapping[str, float]):
    """The bundle's hyperparameters with their current values; names are fixed, values are finite floats.

    Assigning an unknown name or a value that is not a finite number raises ConfigError.
    """

    def __init__(self, defaults: Mapping[str, float]) -> None:
        self._values = {name: float(value) for name, value in defaults.items()}

    def __getitem__(self, name: str) -> float:
        return self._values[self._known(name)]

    def __setitem__(self, name: str, value: float) -> None:
        number = float(value) if isinstance(value, int | float) else math.nan
        if not math.isfinite(number):
            raise ConfigError(f"hyper[{name!r}]: expected a finite number, found {value!r}")
        self._values[self._known(name)] = number

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"HyperParameters({self._values})"

    def _known(self, name: str) -> str:
        if name not in self._values:
            raise ConfigError(f"unknown hyperparameter {name!r}; this bundle has {', '.join(self._values)}")
        return name
