"""Flower's message classes without the rest of Flower, which a device has no memory for.

`import flwr` loads every app and every legacy API, and with them grpc, httpx, typer and rich: 25 MB that a node
never calls. The message classes and protobuf definitions need none of it, only two names of `flwr.common` and two of
`flwr.supercore.logger`.
"""

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgessl.errors import MissingDependencyError


def use_lean_flower() -> bool:
    """From now on `import flwr.app` loads the message classes alone; returns whether that is so.

    Call it before anything imports flwr; in a process that has Flower already, it changes nothing and is False.
    After it nothing else of Flower (ServerApp, ClientApp, simulation) can be imported in this process.
    """
    if "flwr" in sys.modules:
        return hasattr(sys.modules["flwr"], "__edgessl_lean__")
    spec = importlib.util.find_spec("flwr")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("flwr is not installed; pip install 'edgessl[federated]' brings it")
    root = Path(spec.origin).parent
    flower = _package("flwr", root, __edgessl_lean__=True)
    flower.__dict__["common"] = _package("flwr.common", root / "common", NDArray=np.ndarray)
    log = logging.getLogger("flwr").log
    _module("flwr.supercore.logger", log=log, warn_deprecated_feature=lambda message: log(logging.WARNING, message))
    return True


def _package(name: str, folder: Path, **names: Any) -> ModuleType:
    """A package whose own __init__ does not run; its modules are found where they are."""
    package = _module(name, **names)
    package.__path__ = [str(folder)]
    return package


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    return module
