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
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"objective {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return cls(**options)
