"""A tiny step per strategy, small enough that a contract can ask them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.continual.strategies import STRATEGIES, build_strategy
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder, InputNormalization
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.pool import GlobalMean
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import State, TrainStep, hyper_tensors
from edgessl.views import Pipeline
from edgessl.views.signals import Jitter
from export.parity import random_fields

SPEC = InputSpec("signal", (2, 16), (0.1, -0.2), (2.0, 1.5), "g")
BATCH, DIM = 8, 8


@dataclass(frozen=True)
class Case:
    """A strategy with options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.options.values())])

    def step(self, objective: str = "simclr", optimizer: str = "adamw", norm: str = "group") -> TrainStep:
        """A fresh step of a tiny encoder with this strategy."""
        built = build_objective(objective, **({"hidden": 12, "projection": 6} if objective != "simmim" else {}))
        return TrainStep(
            tiny_encoder(norm),
            built,
            build_optimizer(optimizer),
            Pipeline((Jitter(),), SPEC.shape),
            norm="batch" if norm == "batch" else "layer",
            strategy=build_strategy(self.name, **self.options),
        )


CASES = [
    Case("lwf"),
    *(Case("cassle", {"form": form, "hidden": 10}) for form in ("predictive", "contrastive", "decorrelative")),
    Case("pfr", {"hidden": 10}),
    Case("cla_e", {"hidden": 10}),
    Case("slow"),
    Case("lump"),
    Case("der"),
    Case("cla_r", {"hidden": 10}),
    Case("scale"),
    Case("ewc"),
    Case("si"),
    Case("mas"),
    Case("gating"),
    Case("gating", {"hard": True, "share": 0.4}),
    Case("scaling"),
    Case("fedprox"),
    Case("feddecorr"),
    Case("fedx", {"hidden": 10}),
]
assert {case.name for case in CASES} == set(STRATEGIES)


def tiny_encoder(norm: str = "group") -> Encoder:
    """One convolution and a mean over time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        stages = {
            "stem": ConvNorm(nn.Conv1d(SPEC.shape[0], DIM, 3, stride=2, padding=1, bias=False), norm),
            "pool": GlobalMean(),
        }
    return Encoder(stages, SPEC.shape, InputNormalization(SPEC.mean, SPEC.std, 2))


def inputs(step: TrainStep, t: int = 0, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor | None]:
    """Samples, noise and, for a step that takes them, stored embeddings."""
    generator = torch.Generator().manual_seed(t)
    noise = torch.rand(step.noise_shape(batch), generator=generator)
    stored = torch.randn(batch, step.parts.encoder.embedding_dim, generator=generator) if step.stores else None
    return torch.from_numpy(random_fields(SPEC, batch, t)), noise, stored


def walk(step: TrainStep, state: State, count: int, first: int = 0, **hyper: float) -> Iterator[tuple[State, State]]:
    """State and metrics after each of `count` steps."""
    scalars = hyper_tensors({**step.hyper, **hyper})
    for t in range(first, first + count):
        samples, noise, stored = inputs(step, t)
        state, metrics = step(state, samples, noise, scalars, stored)
        yield state, metrics


def after(step: TrainStep, count: int, **hyper: float) -> State:
    """The state after `count` steps from the start."""
    *_, (state, _) = walk(step, step.initial_state(), count, **hyper)
    return state
