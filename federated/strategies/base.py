"""What a streaming strategy is: replies are taken one by one and let go, whatever their number.

A strategy sees flat float32 weights (P,) and counts of examples; how these crossed the wire is `message`'s business.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from federated.message import ARRAYS, CONFIG, EXAMPLES, ROUND, THETA, Update, metrics_of, records

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

_BLOCK = 1 << 15  # numbers multiplied at a time: what stays in the cache is added twice as fast
SPENT = "spent."
"""What begins so in a `Stateful`'s state (a privacy budget) a rollback does not give back."""


@runtime_checkable
class Stateful(Protocol):
    """Whatever a checkpoint has to keep from round to round."""

    def state(self) -> Mapping[str, Any]:
        """Numpy arrays, and values that JSON holds, by name."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""


class Streaming(Strategy, ABC):
    """A Flower strategy that holds no replies.

    A round is `begin`, one `add` per reply, `finish`. Flower's own way (`configure_train`, `aggregate_train`) works as
    well, inside Flower's wrappers for differential privacy for instance: replies must then hold dense weights, as those
    that `message.unpack` accepted do. All nodes of the grid are asked: which ones those are is `selection`'s business.
    """

    _reference: Float = np.zeros(0, np.float32)

    @abstractmethod
    def begin(self, number: int, reference: Float) -> None:
        """Round `number` starts from the weights `reference` (P,)."""

    @abstractmethod
    def add(self, theta: Float, examples: int) -> None:
        """Take one reply's weights (P,), which speak for `examples` samples."""

    @abstractmethod
    def finish(self) -> Float:
        """The next weights (P,), after at least one `add`."""

    def aggregate(
        self, number: int, reference: Float, updates: Iterable[Update]
    ) -> tuple[Float | None, dict[str, float]]:
        """One round: the next weights and the metrics' means; (None, {}) without an update."""
        means = Means()
        self.begin(number, reference)
        for update in updates:
            self.add(update.theta, means.add(update.metrics))
        return (self.finish(), means.values()) if means.examples else (None, {})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message per node of the grid, all sharing one RecordDict."""
        self._reference = arrays[THETA].numpy()
        config[ROUND] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [Message(content, node, MessageType.TRAIN) for node in grid.get_node_ids()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """`aggregate`, as Flower asks for it; (None, None) without a reply."""
        theta, metrics = self.aggregate(server_round, self._reference, map(_update, replies))
        if theta is None:
            return None, None
        return ArrayRecord({THETA: Array(theta)}), MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """No messages: what a client has to say, it says after training."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Nothing."""

    def summary(self) -> None:
        """Nothing is logged."""


class WeightedMean:
    """The mean of vectors, each with a weight, accumulated in float64: one vector in memory.

    The same vectors in the same order give the same bits; another order may move the last one.
    """

    def __init__(self) -> None:
        self._total, self._term = np.zeros(0), np.empty(_BLOCK)
        self._weight = 0.0

    def add(self, values: npt.NDArray[Any], weight: float) -> None:
        """Take one vector (P,)."""
        if not len(self._total):
            self._total = np.zeros(len(values))
        for i in range(0, len(values), _BLOCK):
            part = values[i : i + _BLOCK]
            self._total[i : i + _BLOCK] += np.multiply(part, np.float64(weight), out=self._term[: len(part)])
        self._weight += weight

    def value(self) -> Double:
        """The mean (P,), after at least one `add`."""
        return self._total / self._weight


class Means:
    """The mean of each metric over who sent it, weighted by their examples."""

    def __init__(self) -> None:
        self.examples = 0
        self._sums: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> int:
        """Take one reply's metrics; returns its examples."""
        examples = int(metrics[EXAMPLES])
        self.examples += examples
        for name, value in metrics.items():
            if name != EXAMPLES:
                self._sums[name] = self._sums.get(name, 0.0) + examples * value
                self._weights[name] = self._weights.get(name, 0) + examples
        return examples

    def values(self) -> dict[str, float]:
        """The means by name."""
        return {name: total / self._weights[name] for name, total in self._sums.items()}


def _update(reply: Message) -> Update:
    theta = records(reply.content, ArrayRecord)[ARRAYS][THETA].numpy()
    return Update(theta, 0, metrics_of(reply.content))
