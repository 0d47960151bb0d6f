"""The training step as a pure function: `step(state, batch, noise, hyper) -> (state, metrics)`.

The same object pretrains on a GPU, is traced into the ONNX graph that devices run, and is what the parity gate compares
against. It has two halves, so that data-parallel training puts ONE all-reduce between them:

    gradient(state, batch, noise, hyper) -> Gradient      loss, its flat gradient, the objective's new slots
    update(state, gradient, hyper)       -> state, metrics      both may hear a continual strategy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.continual.strategies import Rows, Strategy
from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError, InputError
from edgessl.layout import ParameterLayout
from edgessl.objectives import Batch, Gather, Loss, Objective
from edgessl.objectives.functional import effective_rank, embedding_std
from edgessl.objectives.network import Parts
from edgessl.optim import Optimizer, clip_by_norm
from edgessl.views import MultiViews, Pipeline

State = dict[str, Tensor]
METRICS = ("loss", "grad_norm", "embedding_std", "effective_rank")
STRATEGY_LOSS = "strategy_loss"  # a metric too, where there is a strategy that adds to the loss


@dataclass(frozen=True)
class Gradient:
    """What the first half of a step hands to the second.

    `direction` `(size,)` holds the gradient on the trained prefix, the batch statistics on the statistic entries and
    zero on the fixed ones: one vector to all-reduce. `embeddings` `(M, D)` are the joined batch's, M a multiple of its
    size. `loss` is the objective's, `term` what the strategy adds to it.
    """

    direction: Tensor
    loss: Tensor
    term: Tensor
    slots: State
    embeddings: Tensor
    embedding_std: Tensor
    effective_rank: Tensor


class TrainStep:
    """Encoder + objective + optimizer + pipeline of views (+ continual strategy), as one pure function of tensors.

    Args:
        encoder: the encoder to train (its current values are the initial theta).
        objective: loss, heads and slots.
        optimizer: pure update rule.
        pipeline: makes views from (batch, noise); as many as the objective takes.
        seed: initialises the heads and random slots; torch's global generator is left alone.
        norm: kind of norm in the heads; "batch" where the encoder uses batch norm, else "layer".
        strategy: what the step does against forgetting; None for nothing.

    Raises:
        ConfigError: two of objective, optimizer and strategy use one name for a head, a slot or a hyperparameter.
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
        strategy: Strategy | None = None,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.strategy = strategy
        self.views = MultiViews(pipeline, objective.crops())
        self._own_noise = objective.noise_width(pipeline.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = objective.heads(encoder, norm)
            added = strategy.heads(encoder, heads, norm) if strategy else {}
            self.parts = Parts(encoder, _apart("head", heads, added)).train()
            self.layout = ParameterLayout.of(self.parts)
            theta = self.layout.flatten_module(self.parts)
            slots = optimizer.slots(theta), objective.slots(theta)
        self._initial: State = _apart(
            "slot", {"theta": theta}, *slots, strategy.slots(theta, self.layout) if strategy else {}
        )
        self.hyper: dict[str, float] = _apart(
            "hyperparameter",
            optimizer.hyper,
            objective.hyper,
            {"clip_norm": 10.0},
            {"statistics_decay": 0.9} if self._has_statistics else {},
            strategy.hyper if strategy else {},
        )

    @property
    def _has_statistics(self) -> bool:
        return self.layout.statistics_end > self.layout.trained_end

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the state's tensors, `theta` first."""
        return tuple(self._initial)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what a step measures."""
        return (*METRICS, STRATEGY_LOSS) if self.strategy and self.strategy.adds else METRICS

    @property
    def stores(self) -> bool:
        """Whether a step takes the embeddings stored with the samples."""
        return self.strategy is not None and self.strategy.stores

    @property
    def embeds(self) -> str:
        """The slot whose weights a device embeds with."""
        return self.strategy.embeds if self.strategy else "theta"

    def initial_state(self) -> State:
        """A fresh copy of the state at step 0 (CPU, float32)."""
        return {name: value.clone() for name, value in self._initial.items()}

    def noise_shape(self, batch_size: int) -> tuple[int, int]:
        """Shape of the uniform noise that a batch of `batch_size` samples needs: the views' columns, then the
        objective's own, then the strategy's; one idle column where none needs any, since a graph's inputs have no empty
        axes."""
        mixing = self.strategy.noise_width() if self.strategy else 0
        return batch_size, max(1, self.views.width + self._own_noise + mixing)

    def __call__(
        self,
        state: State,
        batch: Tensor,
        noise: Tensor,
        hyper: Mapping[str, Tensor],
        stored: Tensor | None = None,
    ) -> tuple[State, State]:
        """One step.

        Args:
            state: slot name -> tensor; `theta` `(size,)` float32 and the slots of optimizer and objective.
            batch: samples `(N, *input_shape)` float32, raw units.
            noise: uniform [0, 1), float32, of shape `noise_shape(N)`.
            hyper: 0-d float32 tensors for every name in `self.hyper`.
            stored: embeddings `(N, D)` of the samples from when they were observed, for a strategy that `stores`.

        Returns:
            The new state (same names, shapes and dtypes) and the metrics (0-d): loss (the objective's), grad_norm,
            embedding_std, effective_rank, and strategy_loss where the strategy adds to the loss.
        """
        return self.update(state, self.gradient(state, batch, noise, hyper, stored=stored), hyper)

    def gradient(
        self,
        state: State,
        batch: Tensor,
        noise: Tensor,
        hyper: Mapping[str, Tensor],
        *,
        stored: Tensor | None = None,
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
            loss, term, statistics = self.losses(
                theta, state, batch, noise, dict(hyper), stored, gather, autocast, chunk
            )
        (gradient,) = torch.autograd.grad(loss.value if term is None else loss.value + term, theta)
        embeddings = gather(loss.embeddings.detach())
        return Gradient(
            direction=self._direction(gradient, statistics),
            loss=loss.value.detach(),
            term=torch.zeros_like(loss.value) if term is None else term.detach(),
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
        penalty = self.strategy.penalty(theta, state, values) if self.strategy else None
        added = gradient.term if penalty is None else gradient.term + penalty[0]
        clipped, norm = clip_by_norm(trained if penalty is None else trained + penalty[1], values["clip_norm"])
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
        if self.strategy:
            moved = theta, new_theta, gradient.direction
            new_theta, kept = self.strategy.after_update(state, *moved, values, layout)
            new_slots = {**new_slots, **kept}
        slots = self.objective.after_update({**slots, **new_slots, **gradient.slots}, new_theta, values)
        new_state = {name: slots[name] if name != "theta" else new_theta for name in self._initial}
        metrics = (gradient.loss, norm, gradient.embedding_std, gradient.effective_rank, added)
        return new_state, dict(zip(self.metrics, metrics, strict=False))

    def compile(self) -> None:
        """`torch.compile` views, networks and loss; the results stay the same up to rounding."""
        # cached here: on Python 3.11 dynamo breaks at their lock
        _ = self.layout.size, self.layout.trained_end, self.views.local
        self.losses = torch.compile(self.losses)  # type: ignore[method-assign]

    def losses(
        self,
        theta: Tensor,
        slots: State,
        samples: Tensor,
        noise: Tensor,
        hyper: State,
        stored: Tensor | None = None,
        gather: Gather = lambda rows: rows,
        autocast: torch.dtype | None = None,
        chunk: int | None = None,
    ) -> tuple[Loss, Tensor | None, State]:
        """The objective's loss at `theta`, the strategy's term, and the batch statistics the networks saw.

        Raises:
            InputError: the strategy needs stored embeddings, which only a memory that keeps them has.
        """
        if self.stores and stored is None:
            raise InputError("stored: the strategy compares with embeddings stored in a replay memory; there are none")
        used = self.views.width
        own = used + self._own_noise
        with torch.no_grad():
            views = self._make_views(samples, noise[:, :used], chunk)
            batch = Batch(samples, views, noise[:, used:own])
            if self.strategy:
                batch = self.strategy.mix(batch, noise[:, own : own + self.strategy.noise_width()], hyper)
        network = self.parts.network(self.layout, theta, autocast=autocast, chunk=chunk)
        loss = self.objective.loss(network, slots, batch, hyper, gather)
        rows = Rows(network, batch, loss, stored)
        student = network.at(theta)  # its statistics count for the strategy's heads only
        term = self.strategy.term(student, slots, rows, hyper, gather) if self.strategy else None
        return loss, term, {**student.statistics, **network.statistics}

    def _make_views(self, samples: Tensor, noise: Tensor, chunk: int | None) -> tuple[Tensor, ...]:
        if chunk is None:
            return self.views(samples, noise)
        parts = [self.views(x, u) for x, u in zip(samples.split(chunk), noise.split(chunk), strict=True)]
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

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


def hyper_tensors(hyper: Mapping[str, float], device: torch.device | str = "cpu") -> State:
    """Python numbers as the 0-d float32 tensors a step takes."""
    return {name: torch.tensor(float(value), dtype=torch.float32, device=device) for name, value in hyper.items()}


def _apart(what: str, *groups: Mapping[str, Any]) -> dict[str, Any]:
    """`groups` in one, in order; ConfigError where two have one name."""
    joined: dict[str, Any] = {}
    for group in groups:
        if shared := sorted(set(joined) & set(group)):
            raise ConfigError(f"optimizer, objective and strategy: two of them have a {what} {shared[0]!r}")
        joined |= group
    return joined
