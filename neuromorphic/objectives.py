"""Layer-local objectives of the spiking coder: predict the trace of the layer below, or tell samples apart over time.

The protocol is the dense engine's: a frozen dataclass whose fields are options, `hyper` for the scalars, `heads`, and a
`loss` that returns `edgessl.objectives.base.Loss`. What differs is the input: activities over time `(N, T, n)`, the
input's first, then each layer's. No label is an argument of anything here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgessl.data.optional import call_with_options
from edgessl.errors import ConfigError
from edgessl.objectives.base import Loss
from edgessl.objectives.functional import nt_xent_loss
from neuromorphic.coder import trace


class LocalObjective(ABC):
    """A self-supervised objective of a stack of layers: a sum of losses of which each reaches one layer alone."""

    name: ClassVar[str]
    family: ClassVar[str]
    hyper: ClassVar[dict[str, float]]

    @abstractmethod
    def heads(self, n_in: int, sizes: Sequence[int]) -> nn.ModuleList:
        """Modules that are trained beside the layers and left behind at deployment, one per layer."""

    @abstractmethod
    def layer_loss(
        self, inputs: Tensor, below: Tensor, activity: Tensor, head: nn.Module, hyper: Mapping[str, float]
    ) -> Tensor:
        """The loss of one layer: its `activity` `(N, T, n)` has gradients, `inputs` and `below` have none."""

    def loss(
        self, inputs: Tensor, activities: Sequence[Tensor], heads: nn.ModuleList, hyper: Mapping[str, float]
    ) -> Loss:
        """The sum of the layers' losses, each with the two penalties that keep a layer alive.

        Args:
            inputs: spikes `(N, T, n_in)` to predict; activities: `(N, T, n)` of each layer.
            heads: those of `heads`; hyper: values of every key of `hyper`.

        Returns:
            The scalar, and the last layer's mean activities `(N, n)` as the embeddings to watch.
        """
        total, below = inputs.new_zeros(()), inputs
        for activity, head in zip(activities, heads, strict=True):
            total = total + self.layer_loss(inputs, below, activity, head, hyper)
            total = total + hyper["variance"] * variance_floor(activity, hyper["floor"])
            total = total + hyper["rate"] * rate_penalty(activity, hyper["target_rate"])
            below = activity.detach()
        return Loss(total, activities[-1].detach().mean(1), {})


def variance_floor(activity: Tensor, floor: float) -> Tensor:
    """Hinge on each neuron's standard deviation, over the batch, of its mean activity (VICReg, Bardes et al. 2022).

    Divided by `floor`: 1 where a layer says the same of every sample, 0 where every neuron varies by `floor` or more.
    """
    mean = activity.mean(1)
    deviation = torch.sqrt((mean - mean.mean(0)).square().mean(0) + 1e-8)
    return torch.relu(floor - deviation).mean() / floor


def rate_penalty(activity: Tensor, target: float) -> Tensor:
    """Squared distance of each neuron's mean activity from `target`, in units of it: 1 for a silent layer."""
    return ((activity.mean((0, 1)) - target) / target).square().mean()


@dataclass(frozen=True)
class SpikingPredictive(LocalObjective):
    """Each layer predicts, through a linear head, what the layer below will do (Rao and Ballard 1999, in spikes).

    `L = sum_l |x_(l-1)(t + horizon) - G_l x_l(t)|^2 / var(x_(l-1))`, x a low-pass trace; as SpNCN (Ororbia 2019, arXiv
    1908.08655) predicts filtered spikes, but trained with a surrogate gradient inside each layer. A layer hears the one
    below a step late, so that a horizon of 0 predicts one step ahead of what it has seen.

    `target` "below" is the trace of the layer below; "input" the input's trace for every layer; "next" the input's raw
    spikes.
    """

    horizon: int = 1
    target: str = "below"
    keep: float = 0.8
    name: ClassVar[str] = "spiking_predictive"
    family: ClassVar[str] = "predictive"
    hyper: ClassVar[dict[str, float]] = {
        "prediction": 1.0, "variance": 1.0, "floor": 0.05, "rate": 0.1, "target_rate": 0.1,
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.horizon < 0 or self.target not in ("below", "input", "next"):
            raise ConfigError(
                f"{self.name}: horizon {self.horizon} and target {self.target!r}; expected 0 or more, and below, input"
                " or next"
            )
        _check_keep(self.name, self.keep)

    def heads(self, n_in: int, sizes: Sequence[int]) -> nn.ModuleList:
        """One linear map per layer, from its traces to what it predicts."""
        below = (n_in, *sizes[:-1]) if self.target == "below" else (n_in,) * len(sizes)
        return nn.ModuleList(nn.Linear(n, out) for n, out in zip(sizes, below, strict=True))

    def layer_loss(
        self, inputs: Tensor, below: Tensor, activity: Tensor, head: nn.Module, hyper: Mapping[str, float]
    ) -> Tensor:
        """`prediction` times the share of the target's variance that is not predicted."""
        source = below if self.target == "below" else inputs
        wanted = source if self.target == "next" else trace(source, self.keep)
        seen = trace(activity, self.keep)
        last = seen.shape[1] - self.horizon
        if last < 1:
            raise ConfigError(f"{self.name}: horizon {self.horizon} in {seen.shape[1]} steps; give more steps")
        wanted = wanted[:, self.horizon :]
        error = (wanted - head(seen[:, :last])).square().mean()
        return hyper["prediction"] * error / (wanted - wanted.mean((0, 1))).square().mean().clamp(min=1e-6)


@dataclass(frozen=True)
class TemporalContrast(LocalObjective):
    """Each layer tells samples apart by what lasts: what it does now and what it does next agree.

    Time is cut into blocks of `block` steps (0: two halves); NT-Xent between the mean activity of the even and of the
    odd blocks, the batch's other samples as negatives, in every layer. It is the contrastive side of CLAPP (Illing et
    al. 2021) and ESPP (Graf et al. 2024, arXiv 2405.13976) with temporal adjacency as the only signal.
    """

    block: int = 0
    name: ClassVar[str] = "temporal_contrast"
    family: ClassVar[str] = "contrastive"
    hyper: ClassVar[dict[str, float]] = {
        "contrast": 1.0, "temperature": 0.2, "variance": 1.0, "floor": 0.05, "rate": 0.1, "target_rate": 0.1,
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.block < 0:
            raise ConfigError(f"{self.name}: block is {self.block}; expected 1 step or more, or 0 for halves")

    def heads(self, n_in: int, sizes: Sequence[int]) -> nn.ModuleList:
        """One linear projector per layer."""
        return nn.ModuleList(nn.Linear(n, min(n, 64), bias=False) for n in sizes)

    def layer_loss(
        self, inputs: Tensor, below: Tensor, activity: Tensor, head: nn.Module, hyper: Mapping[str, float]
    ) -> Tensor:
        """`contrast` times NT-Xent between even and odd blocks."""
        steps = activity.shape[1]
        block = self.block or steps // 2
        if block < 1 or block >= steps:
            raise ConfigError(f"{self.name}: {steps} steps do not hold two blocks of {block}; give more steps")
        odd = torch.arange(steps, device=activity.device) // block % 2 == 1
        return hyper["contrast"] * nt_xent_loss(
            head(activity[:, ~odd].mean(1)), head(activity[:, odd].mean(1)), hyper["temperature"]
        )


OBJECTIVES: dict[str, type[LocalObjective]] = {c.name: c for c in (SpikingPredictive, TemporalContrast)}


def build_objective(name: str, options: Mapping[str, Any]) -> LocalObjective:
    """The objective `name` with `options`.

    Raises:
        ConfigError: unknown name or option.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective {name!r}; the spiking coder has {', '.join(OBJECTIVES)}")
    built: LocalObjective = call_with_options(OBJECTIVES[name], f"objective {name!r}", **options)
    return built


def _check_keep(name: str, keep: float) -> None:
    if not 0 <= keep < 1:
        raise ConfigError(f"{name}: keep is {keep}; expected 0 or more and below 1")
