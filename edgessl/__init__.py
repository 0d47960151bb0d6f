"""edgessl: self-supervised learning that continues on the device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__version__ = "0.1.0"


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package whose names live in its modules and are imported when first used.

    `homes` says for each name in which module. The package has the same imports under TYPE_CHECKING, and `__all__`;
    importing torch, onnx or flwr for names that nobody asks for would take seconds.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
