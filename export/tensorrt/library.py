"""TensorRT's Python API, from whichever package is installed, and what its versions can and cannot do."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from edgessl.errors import ConfigError, MissingDependencyError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
OLDEST = (10, 8)
# flavour -> modules that have its API, and how to get it
_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "tensorrt": (
        ("tensorrt",),
        "pip install tensorrt (Linux x64, Windows; CUDA 13 and driver 580 or newer, or tensorrt-cu12), on a Jetson it "
        "comes with JetPack",
    ),
    "tensorrt_rtx": (
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs (GeForce and RTX cards; driver 580 or newer)",
    ),
}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT: `api` is its module, `version` a tuple of numbers."""

    flavour: Flavour
    api: Any
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        """Name and version, as an engine's record keeps them."""
        return f"{self.flavour} {'.'.join(map(str, self.version))}"

    def network_flags(self) -> int:
        """Flags of a strongly typed network: implied from 11 on and in RTX, where the flag does nothing."""
        if self.flavour == "tensorrt" and self.version[0] < 11:
            return 1 << int(self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return 0


def load_library(flavour: Flavour = "tensorrt") -> Library:
    """TensorRT or TensorRT-RTX.

    Raises:
        MissingDependencyError: it is not installed, or its libraries do not load.
        ConfigError: it is older than TensorRT 10.8.
    """
    modules, how = _PACKAGES[flavour]
    reasons = []
    for name in modules:
        try:
            api = importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        library = Library(flavour, api, parse_version(api.__version__))
        if flavour == "tensorrt" and library.version[:2] < OLDEST:
            raise ConfigError(f"TensorRT {api.__version__} is too old, at least 10.8 is needed: {how}")
        return library
    raise MissingDependencyError(f"{flavour} is not installed ({'; '.join(reasons)}): {how}; check with: nvidia-smi")


def parse_version(text: str) -> tuple[int, ...]:
    """`"11.4.0.106"` -> `(11, 4, 0, 106)`; what follows the numbers is left out."""
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0].split("rc")[0]))


def refuse_refit(flavour: Flavour, version: tuple[int, ...]) -> None:
    """Refuse the versions whose refittable engines are wrong.

    Raises:
        ConfigError: TensorRT 11.3: with REFIT "a GEMM bias can be dropped and treated as zero", says its manual.
    """
    if flavour == "tensorrt" and version[:2] == (11, 3):
        raise ConfigError(
            f"TensorRT {'.'.join(map(str, version))} can drop the bias of a matrix product in refittable engines (its "
            "own known issue): take 11.4 or newer, or 11.2, or leave the parameters as inputs"
        )
