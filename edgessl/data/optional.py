"""Packages and options that a reader asks for when it is used, not when it is imported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from edgessl.errors import ConfigError, MissingDependencyError

Result = TypeVar("Result")


def require(module: str) -> Any:
    """Import `module`; MissingDependencyError names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} is needed to read this data and cannot be imported ({error}); run: pip install 'edgessl[train]'"
        ) from error


def call_with_options(function: Callable[..., Result], what: str, /, *args: Any, **options: Any) -> Result:
    """Call `function`; ConfigError names an option that it does not have or one that it needs."""
    known = list(inspect.signature(function).parameters.values())[len(args) :]
    names = [parameter.name for parameter in known]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known)  # then it judges names itself
    for name in options:
        if name not in names and not takes_any:
            raise ConfigError(f"{what} has no option {name!r}; its options are: {', '.join(names) or 'none'}")
    for parameter in known:
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and parameter.name not in options:
            raise ConfigError(f"{what} needs the option {parameter.name!r}")
    return function(*args, **options)
