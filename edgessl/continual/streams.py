"""Streams: the order in which a device meets its data, and the budgets under which it learns from it.

    order = by_class(labels, per_context=2, seed=0)      # class-incremental
    order = blurred(order, width=0.5, seed=0)            # neighbouring contexts overlap
    for samples in Stream(source, order, chunk=32):      # (n, *shape); no label, no context, no boundary
        ...

An order is made from labels or groups; what the device sees of it is samples. Contexts (tasks, domains) stay with the
judge. A stream reads a chunk when it is asked for it, and never what lies ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgessl.data.source import Source
from edgessl.errors import ConfigError, InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Order:
    """Which sample comes when: `indices` (M,) int64 into the data, `contexts` (M,) int64, each one's hidden context.

    `names`: of the contexts, by number.
    """

    indices: Array
    contexts: Array
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.indices.shape != self.contexts.shape or self.indices.ndim != 1 or len(self.indices) == 0:
            raise InputError(f"order: {self.indices.shape} samples, {self.contexts.shape} contexts; expected (M,) each")
        if self.contexts.min() < 0 or self.contexts.max() >= len(self.names):
            raise InputError(f"order: contexts {self.contexts.min()}..{self.contexts.max()}, {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.indices)

    def ends(self) -> Array:
        """(T,) int64: how many samples have come when the last one of each context has; -1 where it has none."""
        ends = np.full(len(self.names), -1)
        ends[self.contexts] = np.arange(1, len(self) + 1)  # the last assignment stands
        return ends

    def _rearranged(self, places: Array) -> Order:
        return Order(self.indices[places], self.contexts[places], self.names)


def by_class(labels: Array, per_context: int, seed: int = 0, shuffle_classes: bool = False) -> Order:
    """Class-incremental: `per_context` classes after the other, in numeric or in seeded order; shuffled within."""
    rng = np.random.default_rng([seed, 1])
    classes = np.unique(labels)
    if shuffle_classes:
        classes = rng.permutation(classes)
    if not 1 <= per_context <= len(classes):
        raise ConfigError(f"{per_context} classes per context: the data have {len(classes)}")
    contexts = [classes[i : i + per_context] for i in range(0, len(classes), per_context)]
    members = [rng.permutation(np.flatnonzero(np.isin(labels, context))) for context in contexts]
    return _joined(members, [" ".join(map(str, context)) for context in contexts])


def by_group(groups: Array, sequence: Sequence[Any] = (), seed: int | None = None) -> Order:
    """Domain-incremental: one speaker, device, subject, load or month after the other.

    Args:
        groups: (N,) the group of each sample.
        sequence: groups in the order in which they come; all of them, sorted, when empty.
        seed: shuffles within a group; None keeps the order of the data, as it was recorded.
    """
    chosen = list(sequence) or np.unique(groups).tolist()
    members = [np.flatnonzero(groups == group) for group in chosen]
    if empty := [group for group, own in zip(chosen, members, strict=True) if len(own) == 0]:
        raise ConfigError(f"group {empty[0]!r} has no samples; there are {', '.join(map(str, np.unique(groups)))}")
    if seed is not None:
        members = [np.random.default_rng([seed, 2, i]).permutation(own) for i, own in enumerate(members)]
    return _joined(members, [str(group) for group in chosen])


def by_share(count: int, contexts: int, seed: int = 0) -> Order:
    """Data-incremental: `count` samples in seeded order, cut into `contexts` parts that differ by chance alone."""
    if not 1 <= contexts <= count:
        raise ConfigError(f"{contexts} contexts of {count} samples: give 1 to {count}")
    parts = np.array_split(np.random.default_rng([seed, 3]).permutation(count), contexts)
    return _joined(parts, [f"part {i}" for i in range(contexts)])


def blurred(order: Order, width: float, seed: int = 0) -> Order:
    """Contexts that overlap at their borders: every sample is moved by up to `width` mean context lengths.

    The same samples, each at the place of its key `i + u`, u uniform within `width` times the mean length of a
    context; 0 changes nothing. As the blurry boundaries of Aljundi et al. 2019 (arXiv 1812.03596).
    """
    reach = width * len(order) / len(order.names)
    keys = np.arange(len(order)) + np.random.default_rng([seed, 4]).uniform(-reach, reach, len(order))
    return order._rearranged(np.argsort(keys, kind="stable"))


def irregular(order: Order, least: float, seed: int = 0) -> Order:
    """Contexts of unequal length: of each, only its first samples stay, a share drawn between `least` and 1."""
    if not 0 < least <= 1:
        raise ConfigError(f"least share {least:g}: expected above 0 and at most 1")
    shares = np.random.default_rng([seed, 5]).uniform(least, 1, len(order.names))
    kept = [own[: max(1, round(share * len(own)))] for own, share in zip(_members(order), shares, strict=True)]
    return order._rearranged(np.sort(np.concatenate(kept)))


def limited(order: Order, per_context: int) -> Order:
    """At most the first `per_context` samples of every context."""
    return order._rearranged(np.sort(np.concatenate([own[:per_context] for own in _members(order)])))


def recurring(order: Order, visits: int) -> Order:
    """Every context comes `visits` times, each time with the next part of its samples: A1 B1 C1 A2 B2 C2 ..."""
    parts = [np.array_split(own, visits) for own in _members(order)]
    return order._rearranged(np.concatenate([part[visit] for visit in range(visits) for part in parts]))


def repeated(order: Order, times: int) -> Order:
    """The whole order, the same samples, `times` times over."""
    return order._rearranged(np.tile(np.arange(len(order)), times))


def _members(order: Order) -> list[Array]:
    return [np.flatnonzero(order.contexts == context) for context in range(len(order.names))]


def _joined(members: Sequence[Array], names: Sequence[str]) -> Order:
    contexts = np.repeat(np.arange(len(members)), [len(own) for own in members])
    return Order(np.concatenate(members).astype(np.int64), contexts, tuple(names))


class Stream(Iterator[Array]):
    """The samples of `source` in `order`, `chunk` at a time, once; the last chunk may be smaller.

    Attributes:
        position: samples handed out so far; the judge compares it with `order.ends()`.
    """

    def __init__(self, source: Source, order: Order, chunk: int) -> None:
        if chunk < 1:
            raise ConfigError(f"chunk is {chunk}; give 1 or more samples")
        self.order, self.position = order, 0
        self._source, self._chunk = source, chunk

    def __next__(self) -> Array:
        """Samples (n, *shape) float32 with n <= chunk."""
        if self.position == len(self.order):
            raise StopIteration
        following = self.order.indices[self.position : self.position + self._chunk]
        self.position += len(following)
        return self._source.take(following)


@dataclass(frozen=True)
class Budget:
    """What a device may spend: `steps` training steps of `batch_size` samples for every `chunk` samples that come, and
    `memory_bytes` for what it remembers of them."""

    chunk: int = 32
    steps: int = 2
    batch_size: int = 64
    memory_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, least in (("chunk", 1), ("steps", 0), ("batch_size", 2), ("memory_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"budget: {name} is {getattr(self, name)}; give {least} or more")

    @property
    def passes_per_sample(self) -> float:
        """Samples that went backward per sample that came (CLIMB's CBP, divided by the length of the stream)."""
        return self.steps * self.batch_size / self.chunk

    def total_steps(self, samples: int) -> int:
        """Training steps over a whole stream of `samples`."""
        return self.steps * -(-samples // self.chunk)

    def to_json(self) -> dict[str, float]:
        """Plain values, `passes_per_sample` with them."""
        return {**asdict(self), "passes_per_sample": self.passes_per_sample}


def skewed_shards(labels: Array, clients: int, concentration: float = 0.3, seed: int = 0) -> list[Array]:
    """Split samples among clients so that each sees mostly some classes (Hsu et al. 2019, arXiv 1909.06335).

    Args:
        labels: `(N,)` classes, used only to make the split.
        clients: how many shards.
        concentration: of the Dirichlet distribution of each class over the clients; small is skewed.
        seed: of the split.

    Returns:
        One index array per client, shuffled; together a partition of `range(N)` into shards of almost equal size.
    """
    rng = np.random.default_rng([seed, 72])
    room = np.full(clients, -(-len(labels) // clients))
    shards: list[list[int]] = [[] for _ in range(clients)]
    shares = rng.dirichlet(np.full(clients, concentration), size=int(labels.max()) + 1)
    for index in rng.permutation(len(labels)):
        share = shares[labels[index]] * (room > 0)
        odds = share / share.sum() if share.sum() > 0 else (room > 0) / (room > 0).sum()
        client = int(rng.choice(clients, p=odds))
        shards[client].append(int(index))
        room[client] -= 1
    return [np.array(shard) for shard in shards]
