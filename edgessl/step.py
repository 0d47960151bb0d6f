"""The training step as a pure function: `step(state, batch, noise, hyper) -> (state, metrics)`.

The same object pretrains on a GPU, is traced into the ONNX graph that devices run, and is what the parity gate compares
against. It has two halves, so that data-parallel training puts ONE all-reduce between them:

    gradient(state, batch, noise, hyper) -> Gradient      loss, its flat gradient, the objective's new slots
    update(state, gradient, hyper)       -> state, metrics
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from edgessl.encoders.base import Encoder
from edgessl.encoders.norm import collect_batch_statistics
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.objectives import Batch, Gather, Loss, Network, Objective
from edgessl.objectives.functional import effective_rank, embedding_std
from edgessl.optim import Optimizer, clip_by_norm
from edgessl.views import MultiViews, Pipeline

State = dict[str, Tensor]
METRICS = ("loss", "grad_norm", "embedding_std", "effective_rank")


@dataclass(frozen=True)
class Gradient:
    """What the first half of a step hands to the second.

    `direction` `(size,)` holds the gradient on the trained prefix, the batch statistics on the statistic entries and
    zero on the fixed ones: one vector to all-reduce. `embeddings` `(M, D)` are the joined batch's, M a multiple of its
    size.
    """

    direction: Tensor
    loss: Tensor
    slots: State
    embeddings: Tensor
    embedding_std: Tensor
    effective_rank: Tensor


class _Parts(nn.Module):
    """Encoder and heads under their names; `forward(part, ...)` lets functional_call reach each, and their methods."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        for name, head in heads.items():
            self.add_module(name, head)

    def forward(self, part: str, *arguments: Any) -> Tensor:
        out: Tensor = attrgetter(part)(self)(*arguments)
        return out


class TrainStep:
    """Encoder + objective + optimizer + pipeline of views, as one pure function of tensors.

    Args:
        encoder: the encoder to train (its current values are the initial theta).
        objective: loss, heads and slots.
        optimizer: pure update rule.
        pipeline: makes views from (batch, noise); as many as the objective takes.
        seed: initialises the heads and random slots; torch's global generator is left alone.
        norm: kind of norm in the heads; "batch" where the encoder uses batch norm, else "layer".
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        optimizer: Optimizer,
        pipeline: Pipeline,
        *,
        seed: int = 0,
        norm: str = "layer",
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.views = MultiViews(pipeline, objective.crops())
        self._own_noise = objective.noise_width(pipeline.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parts = _Parts(encoder, objective.heads(encoder, norm)).train()
            self.layout = ParameterLayout.of(self.parts)
            theta = self.layout.flatten_module(self.parts)
            objective_slots = objective.slots(theta)
        self._initial: State = {"theta": theta, **optimizer.slots(theta), **objective_slots}
        shared = set(optimizer.hyper) & set(objective.hyper)
        if shared:
            raise ConfigError(f"objective and optimizer both have a hyperparameter {sorted(shared)}")
        self.hyper: dict[str, float] = {
            **optimizer.hyper,
            **objective.hyper,
            "clip_norm": 10.0,
            **({"statistics_decay": 0.9} if self._has_statistics else {}),
        }

    @property
    def _has_statistics(self) -> bool:
        return self.layout.statistics_end > self.layout.trained_end

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the state's tensors, `theta` first."""
        return tuple(self._initial)

    def initial_state(self) -> State:
        """A fresh copy of the state at step 0 (CPU, float32)."""
        return {name: value.clone() for name, value in self._initial.items()}

    def noise_shape(self, batch_size: int) -> tuple[int, int]:
        """Shape of the uniform noise that a batch of `batch_size` samples needs: the views' columns, then the
        objective's own; one idle column where neither needs any, since a graph's inputs have no empty axes."""
        return batch_size, max(1, self.views.width + self._own_noise)

    def __call__(self, state: State, batch: Tensor, noise: Tensor, hyper: Mapping[str, Tensor]) -> tuple[State, State]:
        """One step.

        Args:
            state: slot name -> tensor; `theta` `(size,)` float32 and the slots of optimizer and objective.
            batch: samples `(N, *input_shape)` float32, raw units.
            noise: uniform [0, 1), float32, of shape `noise_shape(N)`.
            hyper: 0-d float32 tensors for every name in `self.hyper`.

        Returns:
            The new state (same names, shapes and dtypes) and the metrics (0-d): loss, grad_norm, embedding_std,
            effective_rank.
        """
        return self.update(state, self.gradient(state, batch, noise, hyper), hyper)

    def gradient(
        self,
        state: State,
        batch: Tensor,
        noise: Tensor,
        hyper: Mapping[str, Tensor],
        *,
        gather: Gather = lambda rows: rows,
        autocast: torch.dtype | None = None,
        chunk: int | None = None,
    ) -> Gradient:
        """Loss and flat gradient, for the same result up to rounding in less memory or time.

        Args:
            autocast: dtype to run the networks in; losses stay float32.
            chunk: rows that views and encoder take at a time; activations are not kept but recomputed in the backward
                pass (Chen et al. 2016, arXiv 1604.06174; for losses that couple samples, GradCache, Gao et al. 2021).
        """
        self.parts.train()  # whoever evaluated the encoder meanwhile may have left it in evaluation mode
        theta = state["theta"].detach().requires_grad_()
        with torch.enable_grad():
            loss, statistics = self._loss(theta, state, batch, noise, dict(hyper), gather, autocast, chunk)
        (gradient,) = torch.autograd.grad(loss.value, theta)
        embeddings = gather(loss.embeddings.detach())
        return Gradient(
            direction=self._direction(gradient, statistics),
            loss=loss.value.detach(),
            slots=loss.slots,
            embeddings=embeddings,
            embedding_std=embedding_std(embeddings),
            effective_rank=effective_rank(embeddings),
        )

    def update(self, state: State, gradient: Gradient, hyper: Mapping[str, Tensor]) -> tuple[State, State]:
        """Clip, optimize, advance the running statistics and the objective's slots."""
        layout, theta, values = self.layout, state["theta"], dict(hyper)
        trained = gradient.direction
        if self._has_statistics:
            trained = nn.functional.pad(trained[: layout.trained_end], (0, layout.size - layout.trained_end))
        clipped, norm = clip_by_norm(trained, values["clip_norm"])
        new_theta, new_slots = self.optimizer.update(theta, clipped, state, values, layout)
        if self._has_statistics:
            new_theta = torch.cat(
                [
                    new_theta[: layout.trained_end],
                    self._advance(theta, gradient.direction, values["statistics_decay"]),
                    new_theta[layout.statistics_end :],
                ]
            )
        slots = {name: value for name, value in state.items() if name != "theta"}
        slots = self.objective.after_update({**slots, **new_slots, **gradient.slots}, new_theta, values)
        new_state = {name: slots[name] if name != "theta" else new_theta for name in self._initial}
        metrics = (gradient.loss, norm, gradient.embedding_std, gradient.effective_rank)
        return new_state, dict(zip(METRICS, metrics, strict=True))

    def compile(self) -> None:
        """`torch.compile` views, networks and loss; the results stay the same up to rounding."""
        _ = self.layout.size, self.layout.trained_end  # cached here: on Python 3.11 dynamo breaks at their lock
        self._loss = torch.compile(self._loss)  # type: ignore[method-assign]

    def _loss(
        self,
        theta: Tensor,
        slots: State,
        samples: Tensor,
        noise: Tensor,
        hyper: State,
        gather: Gather,
        autocast: torch.dtype | None,
        chunk: int | None,
    ) -> tuple[Loss, State]:
        """The objective's loss at `theta`, and the batch statistics its networks saw."""
        used = self.views.width
        with torch.no_grad():
            views = self._make_views(samples, noise[:, :used], chunk)
        batch = Batch(samples, views, noise[:, used : used + self._own_noise])
        network = Network(partial(self._apply, autocast, chunk), theta)
        return self.objective.loss(network, slots, batch, hyper, gather), network.statistics

    def _make_views(self, samples: Tensor, noise: Tensor, chunk: int | None) -> tuple[Tensor, ...]:
        if chunk is None:
            return self.views(samples, noise)
        parts = [self.views(x, u) for x, u in zip(samples.split(chunk), noise.split(chunk), strict=True)]
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def _apply(
        self, autocast: torch.dtype | None, chunk: int | None, theta: Tensor, part: str, *arguments: Any
    ) -> tuple[Tensor, State]:
        def run(*arguments: Any) -> Tensor:
            precision = torch.autocast(theta.device.type, autocast) if autocast is not None else nullcontext()
            with precision:
                out: Tensor = functional_call(self.parts, self.layout.unflatten(theta), (part, *arguments))
            return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out

        if chunk is not None and part.split(".")[0] == "encoder" and len(arguments[0]) > chunk:
            return _in_chunks(run, chunk, arguments), {}
        return run(*arguments), collect_batch_statistics(self.parts)

    def _direction(self, gradient: Tensor, statistics: State) -> Tensor:
        """The gradient on the trained prefix, batch statistics where the layout keeps the running ones, else zero.

        The loss depends on fixed entries too (input normalisation); nothing may move them.
        """
        layout = self.layout
        names = [e.name for e in layout.entries if e.kind == "statistic"]
        pieces = [gradient[: layout.trained_end]]
        pieces += [statistics[name].detach().to(gradient.dtype).reshape(-1) for name in names]
        return nn.functional.pad(torch.cat(pieces), (0, layout.size - layout.statistics_end))

    def _advance(self, theta: Tensor, direction: Tensor, decay: Tensor) -> Tensor:
        span = slice(self.layout.trained_end, self.layout.statistics_end)
        return decay * theta[span] + (1 - decay) * direction[span]


def _in_chunks(run: Callable[..., Tensor], chunk: int, arguments: tuple[Any, ...]) -> Tensor:
    """`run` on `chunk` rows of the tensors in `arguments` at a time, keeping no activations for the backward pass."""
    rows = len(arguments[0])
    pieces = []
    for start in range(0, rows, chunk):
        part = [a[start : start + chunk] if isinstance(a, Tensor) and a.shape[:1] == (rows,) else a for a in arguments]
        pieces.append(checkpoint(run, *part, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(pieces)


def hyper_tensors(hyper: Mapping[str, float], device: torch.device | str = "cpu") -> State:
    """Python numbers as the 0-d float32 tensors a step takes."""
    return {name: torch.tensor(float(value), dtype=torch.float32, device=device) for name, value in hyper.items()}
