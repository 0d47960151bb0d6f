"""An objective on plain modules, with everything that went through them kept."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.objectives import Batch, Loss, Network, build_objective
from edgessl.step import hyper_tensors

N = 5


class Trial:
    """An objective and its networks, called as plain modules; `calls` keeps what went in and came out of each part."""

    def __init__(self, name: str, encoder: Encoder, **options: Any) -> None:
        self.objective = build_objective(name, **options)
        torch.manual_seed(0)
        heads = self.objective.heads(encoder, "layer")
        self.parts = nn.ModuleDict({"encoder": encoder, **heads})
        self.calls: list[tuple[str, tuple[Any, ...], Tensor]] = []
        generator = torch.Generator().manual_seed(3)
        self.sample = torch.randn((N, *encoder.input_shape), generator=generator)
        self.noise = torch.rand((N, self.objective.noise_width(encoder.input_shape)), generator=generator)

    def apply(self, theta: Tensor, part: str, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        first, _, rest = part.partition(".")
        module: Any = self.parts[first]
        out = (attrgetter(rest)(module) if rest else module)(*arguments)
        self.calls.append((part, arguments, out))
        return out, {}

    def outputs(self, part: str) -> list[Tensor]:
        return [out for name, _, out in self.calls if name == part]

    def loss(self, sample: Tensor | None = None, **hyper: float) -> Loss:
        """Of `sample`, which is its own view where the objective takes one."""
        self.calls.clear()
        sample = self.sample if sample is None else sample
        batch = Batch(sample, (sample,) * self.objective.crops()[0], self.noise)
        network = Network(self.apply, torch.zeros(1))
        scalars = hyper_tensors({**self.objective.hyper, **hyper})
        return self.objective.loss(network, {"teacher": torch.zeros(1)}, batch, scalars, lambda rows: rows)
