"""Federated averaging that keeps one vector in memory however many clients reply."""

import time
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from edgessl.errors import FederationError
from federated.message import ARRAYS, CONFIG, EXAMPLES, ROUND, THETA, metrics_of, records

_POLL_SECONDS = 0.5


class StreamingFedAvg(Strategy):
    """The mean of the clients' weights, weighted by their "num-examples", accumulated in float64.

    FedAvg of McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
    AISTATS 2017. Each reply is added as it comes and let go; float32 goes out. Which clients take part in
    round r depends on (seed, r) and the sorted node ids only. Expects replies that `message.unpack` accepted.

    The same replies in the same order give the same bits; another order of arrival may move the last one.
    """

    def __init__(
        self, *, fraction_train: float = 1.0, min_nodes: int = 2, seed: int = 0, node_timeout: float = 300.0
    ) -> None:
        if not 0 < fraction_train <= 1 or min_nodes < 1:
            raise FederationError(
                f"fraction_train must lie in (0, 1] and min_nodes be at least 1, found {fraction_train} and {min_nodes}"
            )
        self.fraction_train, self.min_nodes, self.seed = fraction_train, min_nodes, seed
        self.node_timeout = node_timeout

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message per sampled node, all sharing one RecordDict; FederationError without enough nodes."""
        nodes = self._sample(server_round, self._available(grid))
        config[ROUND] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [Message(content, node, MessageType.TRAIN) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weighted means of weights and of each metric, over who sent it; (None, None) without a reply."""
        total, weight = np.zeros(1), 0
        sums: dict[str, float] = {}
        weights: dict[str, int] = {}
        for reply in replies:
            metrics = metrics_of(reply.content)
            examples = int(metrics.pop(EXAMPLES))
            theta = records(reply.content, ArrayRecord)[ARRAYS][THETA].numpy().astype(np.float64)
            theta *= examples
            total = np.add(total, theta, out=total if weight else theta)
            weight += examples
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + examples * value
                weights[name] = weights.get(name, 0) + examples
        if weight == 0:
            return None, None
        mean = (total / weight).astype(np.float32)
        means = MetricRecord({name: sums[name] / weights[name] for name in sums})
        return ArrayRecord({THETA: Array(mean)}), means

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """No messages: what a client has to say, it says after training."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Nothing."""

    def summary(self) -> None:
        """Nothing is logged."""

    def _available(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self.node_timeout
        while len(nodes := sorted(grid.get_node_ids())) < self.min_nodes:
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{len(nodes)} of {self.min_nodes} nodes connected within {self.node_timeout:g} s; "
                    "start more nodes or lower min_nodes"
                )
            time.sleep(_POLL_SECONDS)
        return nodes

    def _sample(self, server_round: int, nodes: list[int]) -> list[int]:
        count = max(round(self.fraction_train * len(nodes)), self.min_nodes)
        rng = np.random.default_rng((self.seed, server_round))
        return sorted(nodes[i] for i in rng.choice(len(nodes), count, replace=False))
