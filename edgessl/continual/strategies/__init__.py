"""Continual strategies, one file each, behind one registry."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.cassle import CaSSLe
from edgessl.continual.strategies.cla_e import CLAE
from edgessl.continual.strategies.cla_r import CLAR
from edgessl.continual.strategies.der import DER
from edgessl.continual.strategies.ewc import EWC
from edgessl.continual.strategies.feddecorr import FedDecorr
from edgessl.continual.strategies.fedprox import FedProx
from edgessl.continual.strategies.fedx import FedX
from edgessl.continual.strategies.gating import Gating
from edgessl.continual.strategies.lump import LUMP
from edgessl.continual.strategies.lwf import LwF
from edgessl.continual.strategies.mas import MAS
from edgessl.continual.strategies.pfr import PFR
from edgessl.continual.strategies.scale import SCALE
from edgessl.continual.strategies.scaling import SynapticScaling
from edgessl.continual.strategies.si import SI
from edgessl.continual.strategies.slow import SlowLearner
from edgessl.errors import ConfigError

__all__ = ["STRATEGIES", "Price", "Rows", "Strategy", "build_strategy"]

_CLASSES: tuple[type[Strategy], ...] = (
    LwF, CaSSLe, PFR,  # the network of the past, frozen
    CLAE, SlowLearner,  # a network that follows slowly
    LUMP, DER, CLAR, SCALE,  # the memory
    EWC, SI, MAS, Gating,  # important parameters
    SynapticScaling,  # homeostasis
    FedProx, FedDecorr, FedX,  # the fleet
)  # fmt: skip

STRATEGIES: dict[str, type[Strategy]] = {cls.name: cls for cls in _CLASSES}


def build_strategy(name: str, **options: Any) -> Strategy:
    """The strategy registered under `name`, with its options.

    Raises:
        ConfigError: unknown name, or an option this strategy does not have or cannot take.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"unknown strategy {name!r}; choose one of {', '.join(STRATEGIES)}")
    cls = STRATEGIES[name]
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for option, value in options.items():
        if option not in defaults:
            raise ConfigError(f"strategy {name!r} has no option {option!r}; it has {', '.join(defaults) or 'none'}")
        kind = type(defaults[option])
        if type(value) is not kind:
            raise ConfigError(f"strategy {name!r}: option {option!r} takes {kind.__name__}, found {value!r}")
    return cls(**options)
