"""Which nodes a round asks: a seeded sample of those that may be asked."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from edgessl.errors import FederationError
from federated.exchange import POLL_SECONDS, Exchange
from federated.settings import RoundSettings

Eligible = Callable[[int, int], bool]
"""(node id, round) -> whether that node may be asked then: the operator's word."""


class Selection:
    """The nodes of each round.

    A node is eligible when it is connected, not busy with an earlier message, and `eligible` does not object. Which of
    the eligible are asked depends on the seed, the round and their sorted ids only. Those that failed within
    `cool_down` rounds come last.
    """

    def __init__(self, settings: RoundSettings, eligible: Eligible | None = None) -> None:
        self._settings, self._eligible = settings, eligible
        self._failed: dict[int, int] = {}  # node -> the last round in which it failed

    def choose(self, exchange: Exchange, number: int) -> tuple[list[int], int]:
        """The nodes to ask in round `number`, sorted, and how many good replies end it.

        FederationError when within `node_timeout` seconds too few nodes are eligible.
        """
        wanted = self._settings
        nodes = self.wait_for(exchange, number)
        needed = max(round(wanted.fraction_train * len(nodes)), wanted.min_nodes)
        asked = min(math.ceil(round(wanted.over_selection * needed, 9)), len(nodes))
        rng = np.random.default_rng((wanted.seed, number))
        order = [nodes[i] for i in rng.permutation(len(nodes))]
        order.sort(key=lambda node: self._cooling(node, number))  # stable: the drawn order stays within both kinds
        return sorted(order[:asked]), min(needed, asked)

    def eligible(self, exchange: Exchange, number: int) -> list[int]:
        """The nodes that may be asked now, sorted."""
        busy, may = exchange.traffic.busy, self._eligible
        return [n for n in sorted(exchange.traffic.nodes()) if n not in busy and (may is None or may(n, number))]

    def note(self, number: int, failed: Iterable[int]) -> None:
        """These nodes failed in round `number`."""
        self._failed |= dict.fromkeys(failed, number)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: who failed last when. The draws need nothing but the seed and the round."""
        return {"failed": {str(node): number for node, number in self._failed.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self._failed = {int(node): int(number) for node, number in state["failed"].items()}

    def _cooling(self, node: int, number: int) -> bool:
        return number - self._failed.get(node, -math.inf) <= self._settings.cool_down

    def wait_for(self, exchange: Exchange, number: int) -> list[int]:
        """`eligible`, once they are `min_nodes`; FederationError when that takes more than `node_timeout` seconds."""
        wanted = self._settings
        deadline = exchange.now() + wanted.node_timeout
        while len(nodes := self.eligible(exchange, number)) < wanted.min_nodes:
            if exchange.now() >= deadline:
                connected, busy = exchange.traffic.nodes(), exchange.traffic.busy
                raise FederationError(
                    f"{len(nodes)} of {wanted.min_nodes} nodes eligible within {wanted.node_timeout:g} s "
                    f"({len(connected)} connected, {len(busy)} busy); start more nodes or lower min_nodes"
                )
            exchange.wait(POLL_SECONDS)
            exchange.drain()
        return nodes


class Chosen(Grid):
    """A grid of which a strategy sees the chosen nodes only, so that every Flower strategy asks those it should."""

    def __init__(self, grid: Grid, nodes: list[int]) -> None:
        self._grid, self._nodes = grid, nodes

    def get_node_ids(self) -> list[int]:
        """The chosen nodes."""
        return list(self._nodes)

    def set_run(self, run: Run) -> None:
        """As the grid's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As the grid's."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As the grid's."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid's."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the grid's."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """As the grid's."""
        return self._grid.send_and_receive(messages, timeout=timeout)
