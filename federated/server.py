"""The server of a federation: rounds that go on without the replies that cannot be used."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from edgessl.errors import FederationError
from federated.compat import wire_bytes
from federated.fedavg import StreamingFedAvg
from federated.message import DIGEST, EXAMPLES, ROUND, THETA, flat_array, unpack
from federated.result import FederationResult

POLL_SECONDS = 0.5
PULL = 8  # replies in memory at once

Float = npt.NDArray[np.float32]
OnRound = Callable[[dict[str, Any], Float], None]


def make_server_app(
    initial_theta: Float,
    bundle_digest: str,
    *,
    rounds: int,
    fraction_train: float = 1.0,
    min_nodes: int = 2,
    min_replies: int = 1,
    seed: int = 0,
    round_timeout: float = 600.0,
    strategy: Strategy | None = None,
    on_round: OnRound | None = None,
    save_to: Path | None = None,
) -> ServerApp:
    """A ServerApp that starts from `initial_theta` float32 (P,), the weights of the bundle with that digest.

    Each round goes to a seeded sample of the nodes. A reply that is an error, that does not come within
    `round_timeout` seconds or that `message.unpack` refuses (NaN, wrong size, another bundle ...) is left out,
    its reason recorded, and the round goes on; with fewer than `min_replies` good ones the run ends with a
    FederationError that lists the reasons. After every round the weights are written to `save_to` (see
    FederationResult.save) and `on_round` is called with the round's record and theta.

    `strategy`: any Flower strategy instead of StreamingFedAvg, which `fraction_train`, `min_nodes` and `seed`
    describe; Flower's own hold all the replies of a round in memory.
    """
    if rounds < 1:
        raise FederationError(f"rounds must be at least 1, found {rounds}")
    chosen = strategy or StreamingFedAvg(fraction_train=fraction_train, min_nodes=min_nodes, seed=seed)
    size = len(initial_theta)
    flat_array(Array(initial_theta), size)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        theta, history, began = initial_theta, list[dict[str, Any]](), time.monotonic()
        for number in range(1, rounds + 1):
            current = _Round(grid, number, bundle_digest, size, round_timeout)
            theta, record = current.run(chosen, theta, min_replies)
            history.append(record)
            if save_to is not None:
                FederationResult(theta, history, time.monotonic() - began).save(save_to, bundle_digest)
            if on_round is not None:
                on_round(record, theta)

    return app


class _Round:
    """One round: who was asked, who replied, what was refused and why."""

    def __init__(self, grid: Grid, number: int, digest: str, size: int, timeout: float) -> None:
        self.grid, self.number, self.digest, self.size, self.timeout = grid, number, digest, size, timeout
        self.clients = self.examples = self.bytes_down = self.bytes_up = 0
        self.failures: dict[str, str] = {}

    def run(self, strategy: Strategy, theta: Float, min_replies: int) -> tuple[Float, dict[str, Any]]:
        began = time.monotonic()
        config = ConfigRecord({DIGEST: self.digest, ROUND: self.number})
        arrays = ArrayRecord({THETA: Array(theta)})
        messages = list(strategy.configure_train(self.number, arrays, config, self.grid))
        aggregate, metrics = strategy.aggregate_train(self.number, self._accepted(messages))
        if self.clients < min_replies or aggregate is None:
            reasons = "; ".join(f"node {node}: {why}" for node, why in self.failures.items())
            raise FederationError(
                f"round {self.number}: {self.clients} of {len(messages)} replies can be used, {min_replies} "
                f"are needed ({reasons}); the weights of round {self.number - 1} stand"
            )
        record = {
            **(metrics or {}),  # first: no client's metric may pass for what the server counted
            "round": self.number,
            "clients": self.clients,
            "failures": self.failures,
            "examples": self.examples,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "seconds": time.monotonic() - began,
        }
        return flat_array(aggregate[THETA], self.size), record

    def _accepted(self, messages: list[Message]) -> Iterator[Message]:
        """Good replies as they come; everything else goes into `failures`."""
        for node, reply in self._replies(self._push(messages)):
            if reply.has_error():
                self.failures[node] = f"error {reply.error.code}: {reply.error.reason}"
                continue
            self.bytes_up += wire_bytes(reply.content)
            try:
                update = unpack(
                    reply.content,
                    bundle_digest=self.digest,
                    size=self.size,
                    round_number=self.number,
                    reply=True,
                )
            except FederationError as error:
                self.failures[node] = f"refused: {error}"
                continue
            self.clients += 1
            self.examples += int(update.metrics[EXAMPLES])
            yield reply

    def _push(self, messages: list[Message]) -> dict[str, str]:
        """Send; returns the node by the message's id."""
        sent: dict[str, str] = {}
        names = list(self.grid.push_messages(messages))
        if len(names) != len(messages):  # how Flower says "payload too large"
            raise FederationError(
                f"round {self.number}: the SuperLink took {len(names)} of {len(messages)} messages; "
                "ask fewer nodes at once (fraction_train) or raise its payload limit"
            )
        for message, name in zip(messages, names, strict=True):
            node = str(message.metadata.dst_node_id)
            if name:
                self.bytes_down += wire_bytes(message.content)
                sent[name] = node
            else:
                self.failures[node] = "the message could not be sent"
        return sent

    def _replies(self, pending: dict[str, str]) -> Iterator[tuple[str, Message]]:
        """Nodes and replies as they come; send_and_receive would hold all replies and poll every 3 s."""
        deadline = time.monotonic() + self.timeout
        while pending:
            names = list(pending)
            for i in range(0, len(names), PULL):
                for reply in self.grid.pull_messages(names[i : i + PULL]):
                    yield pending.pop(reply.metadata.reply_to_message_id), reply
            if pending and time.monotonic() > deadline:
                self.failures |= dict.fromkeys(pending.values(), f"no reply within {self.timeout:g} s")
                return
            if pending:
                time.sleep(POLL_SECONDS)
