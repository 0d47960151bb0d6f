"""FedBuff's loop: devices train all the time, and a version is made of every few updates."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Message

from federated.exchange import POLL_SECONDS, Exchange
from federated.message import Float, Update
from federated.selection import Selection
from federated.settings import RoundSettings
from federated.strategies.base import Double, Means
from federated.strategies.fedbuff import FedBuff, staleness_weight

Sender = Callable[[int], Message]
"""node -> the message with which it trains on the present weights."""


class Buffered:
    """One version after another out of what devices send when they are done.

    `fraction_train` of the nodes train at any time. A node that fails sits out until the next version. A version for
    whose buffer too little comes within `round_timeout` seconds is made of what is there.
    """

    def __init__(self, strategy: FedBuff, settings: RoundSettings, selection: Selection, exchange: Exchange) -> None:
        self._strategy, self._settings = strategy, settings
        self._selection, self._exchange = selection, exchange
        self._bases: dict[int, tuple[str, Float]] = {}  # round -> version and weights that it was sent with

    def advance(self, number: int, theta: Float, hash: str, message: Sender) -> tuple[Float | None, dict[str, Any]]:
        """Version `number` from theta (P,) of that hash: new weights and metrics; (None, {}) without an update.

        `message` makes the message for a node that is to train now.
        """
        exchange, wanted = self._exchange, self._strategy
        exchange.tally.goal = wanted.buffer
        if not exchange.traffic.busy:  # those that are at work are no longer waited for
            self._selection.wait_for(exchange, number)
        self._bases[number] = (hash, theta)
        self._bases = {k: v for k, v in self._bases.items() if number - k <= wanted.max_staleness}
        total, means, ages, weights = np.zeros(len(theta)), Means(), list[int](), list[float]()
        deadline, failed = exchange.now() + self._settings.round_timeout, set[int]()
        while len(ages) < wanted.buffer:
            self._dispatch(number, failed, message)
            if not exchange.traffic.busy:
                break
            came = False
            for asked, reply in exchange.pull():
                came = True
                references = dict(self._bases.values())
                if number - asked.round > wanted.max_staleness:
                    exchange.tally.late += 1
                    continue
                if (update := exchange.accept(asked, reply, references)) is None:
                    failed.add(asked.node)
                    continue
                ages.append(number - asked.round)
                weights.append(staleness_weight(ages[-1]))
                total += weights[-1] * _move(update, self._bases[asked.round][1])
                means.add(update.metrics)
                if len(ages) == wanted.buffer:
                    break
            failed |= {asked.node for asked in exchange.tend()}
            if exchange.now() >= deadline:
                break
            if not came:
                exchange.wait(POLL_SECONDS)
        if not ages:
            return None, {}
        news = (theta + wanted.lr / len(ages) * total).astype(np.float32)
        return news, means.values() | {"staleness": float(np.mean(ages)), "weight": float(np.mean(weights))}

    def _dispatch(self, number: int, failed: set[int], message: Sender) -> None:
        """Let idle nodes train until enough do."""
        busy = self._exchange.traffic.busy
        idle = [n for n in self._selection.eligible(self._exchange, number) if n not in failed]
        wanted = max(round(self._settings.fraction_train * (len(idle) + len(busy))), self._settings.min_nodes)
        rng = np.random.default_rng((self._settings.seed, number, self._exchange.tally.clients))
        chosen = sorted(rng.permutation(idle)[: max(0, wanted - len(busy))].tolist())
        if chosen:
            self._exchange.push([message(node) for node in chosen], number)


def _move(update: Update, base: Float) -> Double:
    return update.theta.astype(np.float64) - base
