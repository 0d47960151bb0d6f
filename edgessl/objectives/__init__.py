"""Self-supervised objectives, one file each, behind one registry."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgessl.errors import ConfigError
from edgessl.objectives.base import Gather, Loss, Network, Objective, Slots
from edgessl.objectives.byol import BYOL
from edgessl.objectives.moco import MoCo
from edgessl.objectives.simclr import SimCLR
from edgessl.objectives.vicreg import VICReg

__all__ = ["OBJECTIVES", "Gather", "Loss", "Network", "Objective", "Slots", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (SimCLR, VICReg, BYOL, MoCo)}


def build_objective(name: str, **options: Any) -> Objective:
    """The objective registered under `name`, with its options.

    Raises:
        ConfigError: unknown name, or an option this objective does not have.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    cls = OBJECTIVES[name]
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for option, value in options.items():
        if option not in defaults:
            raise ConfigError(f"objective {name!r} has no option {option!r}; it has {', '.join(defaults)}")
        kind = type(defaults[option])
        if type(value) is not kind or (kind is int and value < 1):
            wanted = "an integer of at least 1" if kind is int else kind.__name__
            raise ConfigError(f"objective {name!r}: option {option!r} takes {wanted}, found {value!r}")
    return cls(**options)
