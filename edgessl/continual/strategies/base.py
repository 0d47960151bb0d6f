"""What a continual strategy is: whatever a training step does, beside its objective, so as not to forget.

A strategy is one small file: a frozen dataclass whose fields are its options, plus one line in the registry. It may
keep slots, train heads, mix the batch, add a term to the loss, pull theta, change a move, and consolidate after drift;
every hook is a pure function of tensors, so that the whole of it is traced into the step that a device runs. What is
remembered, and what is drawn from it, is the memory's business: fine-tuning and experience replay are no strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Batch, Gather, Loss, Network, Slots

PROJECTOR = "projector"  # the head of an objective whose output is what the objective compares, where it has one


@dataclass(frozen=True)
class Price:
    """What a strategy costs beside its objective.

    Attributes:
        bytes_per_parameter: of state beside theta and the optimizer's.
        bytes_per_feature: of every remembered sample, per number of its embedding: 4 where embeddings are stored.
        forward, backward: encoder passes per step, in batches that the objective embeds (both views count as one).
            Where an objective embeds no whole samples as such, terms on its embeddings take one view's pass more.
    """

    bytes_per_parameter: int = 0
    bytes_per_feature: int = 0
    forward: float = 0.0
    backward: float = 0.0


class Rows:
    """What a term is a function of, beside the parameters.

    Attributes:
        sample: the batch `(N, *shape)`; the first N // 2 rows are new, the others remembered.
        stored: embeddings `(N, D)` of `sample` from when each was observed; None unless the strategy `stores`.
    """

    def __init__(self, network: Network, batch: Batch, loss: Loss, stored: Tensor | None) -> None:
        self.sample, self.stored = batch.sample, stored
        self._network, self._batch, self._loss = network, batch, loss

    @property
    def half(self) -> int:
        """Where the remembered rows of `sample` and `stored` begin."""
        return len(self.sample) // 2

    @property
    def projected(self) -> bool:
        """Whether the objective compares what its head `projector` makes of embeddings."""
        return any(part == PROJECTOR for part, _, _ in self._network.passes)

    def by_view(self, rows: Tensor) -> tuple[Tensor, ...]:
        """`(M, ...)`, one row per embedded one, as `(N, ...)` per view, in the order of `sample`."""
        return rows.chunk(len(rows) // len(self.sample))

    @cached_property
    def embedded(self) -> tuple[Tensor, Tensor]:
        """Samples `(M, ...)` and their embeddings `(M, D)` with gradient: those that the objective embedded anyway, or
        its first view's where it embeds no whole samples as such (rotated ones, masked ones)."""
        if (x := self._network.source(self._loss.embeddings)) is not None:
            return x, self._loss.embeddings
        x = self._batch.views[0] if self._batch.views else self._batch.sample
        return x, self._network.at(self._network.theta)("encoder", x)


class Strategy:
    """A continual strategy: what it needs, and what it does to a step.

    Attributes:
        name: in the registry.
        hyper: default values of the scalars it takes.
        price: what it costs.
        kinds: kinds of input it takes; empty for all.
        adds: whether it adds to the loss (`term` or `penalty`); the step then has the metric `strategy_loss`.
        stores: whether the step takes the embeddings stored with the samples.
        consolidates: whether it has something to do after drift.
        measures: whether consolidation needs importances (`sensitivity` and `weigh`).
        embeds: the slot whose weights a device embeds with.
    """

    name: ClassVar[str]
    hyper: ClassVar[dict[str, float]]
    price: ClassVar[Price]
    kinds: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[bool] = True
    stores: ClassVar[bool] = False
    consolidates: ClassVar[bool] = False
    measures: ClassVar[bool] = False
    embeds: ClassVar[str] = "theta"

    def noise_width(self) -> int:
        """Uniform numbers per sample that `mix` consumes."""
        return 0

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """Modules trained beside the encoder and the objective's `heads`, by name.

        Raises:
            ConfigError: the strategy cannot go with this encoder and these heads.
        """
        return {}

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """Initial slots beside `theta` `(size,)`."""
        return {}

    def mix(self, batch: Batch, noise: Tensor, hyper: Slots) -> Batch:
        """The batch that the objective sees; `noise` is `(N, noise_width)`."""
        return batch

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """What is added to the loss, its weight included: a function of `gather`ed rows, as the objective's loss."""
        return None

    def penalty(self, theta: Tensor, slots: Slots, hyper: Slots) -> tuple[Tensor, Tensor] | None:
        """What depends on the parameters alone: its value, weight included, and its gradient `(size,)`.

        It enters after several processes' gradients were added up, hence once, and before clipping.
        """
        return None

    def after_update(
        self, slots: Slots, theta: Tensor, moved: Tensor, gradient: Tensor, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """The new theta and this strategy's new slots, from `theta` before and `moved` after the optimizer.

        `gradient` `(size,)` is the loss's, terms included, penalty and clipping not; only its trained prefix counts.
        """
        return moved, {}

    def sensitivity(self, embedding: Tensor, probe: Tensor) -> Tensor:
        """The scalar whose gradient tells how much one sample's `embedding` `(1, D)` depends on each parameter.

        `probe` `(1, D)` holds random signs.
        """
        raise NotImplementedError(f"{self.name} measures no importance")

    def weigh(self, gradient: Tensor) -> Tensor:
        """One sample's importance of each parameter `(size,)` from the gradient of its `sensitivity`."""
        raise NotImplementedError(f"{self.name} measures no importance")

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The slots that change when what was learned so far becomes the past.

        `importance` `(size,)` is the mean over remembered samples, None unless the strategy `measures`.
        """
        return {}
