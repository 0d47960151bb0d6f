"""What `edgessl continual bench` compares: a memory policy, a strategy in the step, a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgessl.errors import ConfigError

REFERENCES = ("random", "frozen", "finetune", "joint")  # always measured: nothing can be read without them


@dataclass(frozen=True)
class Contender:
    """One way to go on learning.

    Attributes:
        policy: of the replay memory, `edgessl.device.memory.policy.POLICIES`; "recent" holds the latest samples alone.
        strategy, options: of the step, from `edgessl.continual.strategies`; None for none.
        latent: learn behind the stream's cut, from int8 latents in a quarter of the memory.
    """

    policy: str = "recent"
    strategy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    latent: bool = False


def _with(strategy: str, policy: str = "recent", **options: Any) -> Contender:
    return Contender(policy, strategy, options)


CONTENDERS: dict[str, Contender] = {
    "random": Contender(),
    "frozen": Contender(),
    "finetune": Contender(),
    "joint": Contender(),
    # what is remembered
    "replay-fifo": Contender("fifo"),
    "replay-reservoir": Contender("reservoir"),
    "replay-balanced": Contender("balanced"),
    "replay-minred": Contender("minred"),
    "replay-herding": Contender("herding"),
    "latent-replay": Contender("reservoir", latent=True),
    # what the step does with it
    "lump": _with("lump", "reservoir"),
    "der": _with("der", "reservoir"),
    "cla_r": _with("cla_r", "reservoir"),
    "scale": _with("scale", "reservoir"),
    # the past as a network or as important parameters; no memory but the latest samples
    "lwf": _with("lwf"),
    "cassle": _with("cassle"),
    "cassle-contrastive": _with("cassle", form="contrastive"),
    "cassle-decorrelative": _with("cassle", form="decorrelative"),
    "pfr": _with("pfr"),
    "cla_e": _with("cla_e"),
    "slow": _with("slow"),
    "ewc": _with("ewc"),
    "si": _with("si"),
    "mas": _with("mas"),
    "gating": _with("gating"),
    "scaling": _with("scaling"),
    # both
    "lwf+replay": _with("lwf", "reservoir"),
    "cassle+replay": _with("cassle", "reservoir"),
    "pfr+replay": _with("pfr", "reservoir"),
    "cla_e+replay": _with("cla_e", "reservoir"),
    "slow+replay": _with("slow", "reservoir"),
    "slow+minred": _with("slow", "minred"),
    "ewc+replay": _with("ewc", "reservoir"),
    "si+replay": _with("si", "reservoir"),
}


def contender(name: str) -> Contender:
    """The contender registered under `name`; ConfigError for an unknown one."""
    if name not in CONTENDERS:
        raise ConfigError(f"unknown strategy {name!r}; choose among {', '.join(CONTENDERS)}")
    return CONTENDERS[name]
