"""A federation in this process: real ServerApp, real ClientApps, Flower's own records; no Ray, no network."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from edgessl.device import Bundle, Learner
from federated import compat
from federated.client import Learners, catch_up, make_client_app
from federated.result import FederationResult
from federated.server import OnRound, make_server_app
from federated.settings import RoundSettings

FIRST_NODE = 100  # node ids are FIRST_NODE + partition, so that no test mistakes one for the other

Client = ClientApp | Callable[[Message, Context], Message]
Drop = Callable[[int, Message], bool]


class LocalGrid(Grid):
    """A Grid whose nodes are contexts in this process; a client runs when its reply is pulled.

    Every message and reply goes through Flower's wire format, so that no two clients share an object and
    `bytes_down` and `bytes_up` count what was really encoded. `drop(partition, message)` true: the node never
    answers and the server gets NODE_UNAVAILABLE, as from a SuperLink whose node died. What a client raises
    becomes an error reply with the code and the words that Flower uses.
    """

    def __init__(
        self,
        client: Client,
        num_nodes: int,
        run_config: Mapping[str, Any] | None = None,
        drop: Drop | None = None,
    ) -> None:
        self.client, self.num_nodes, self.drop = client, num_nodes, drop
        self.run_config = dict(run_config or {})
        self.bytes_down = self.bytes_up = 0
        self._contexts: dict[int, Context] = {}
        self._sent: dict[str, Message] = {}
        self._run = compat.empty_run()

    def set_run(self, run: Run) -> None:
        """Another description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message; Flower keeps this beside Message() for old strategies."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The node ids, in partition order."""
        return [FIRST_NODE + i for i in range(self.num_nodes)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages; their names, in order."""
        names = []
        for message in messages:
            names.append(compat.stamp(message))
            self._sent[names[-1]] = message
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run the clients that these messages are for, one after the other, and give their replies."""
        for name in list(message_ids):
            if name in self._sent:
                yield self._deliver(self._sent.pop(name))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies; `timeout` has no meaning here."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _deliver(self, message: Message) -> Message:
        partition = message.metadata.dst_node_id - FIRST_NODE
        if self.drop is not None and self.drop(partition, message):
            reply = Message(Error(compat.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
        else:
            reply = self._answer(message, partition)
        compat.stamp(reply)
        return reply

    def _answer(self, message: Message, partition: int) -> Message:
        down = compat.encode(message.content)
        self.bytes_down += len(down)
        received = copy.copy(message)
        received.content = compat.decode(down)
        try:
            reply = self.client(received, self._context(partition))
        except Exception as error:  # the client's code may raise anything; Flower catches the same
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(compat.CLIENT_RAISED, reason), reply_to=message)
        up = compat.encode(reply.content)
        self.bytes_up += len(up)
        reply.content = compat.decode(up)
        return reply

    def _context(self, partition: int) -> Context:
        if partition not in self._contexts:
            self._contexts[partition] = Context(
                run_id=1,
                node_id=FIRST_NODE + partition,
                node_config={"partition-id": partition, "num-partitions": self.num_nodes},
                state=RecordDict(),
                run_config=dict(self.run_config),
            )
        return self._contexts[partition]


def run_local(
    server_app: ServerApp,
    client: Client,
    num_nodes: int,
    run_config: Mapping[str, Any] | None = None,
    *,
    drop: Drop | None = None,
) -> LocalGrid:
    """Run a federation to its end; returns the grid for its byte counts. What the ServerApp raises comes out.

    `client`: a ClientApp, or a function of (message, context).
    """
    grid = LocalGrid(client, num_nodes, run_config, drop)
    with compat.local_identity():
        server_app(grid, Context(1, compat.SERVER_NODE_ID, {}, RecordDict(), dict(grid.run_config)))
    return grid


def federate_in_process(
    bundle: Bundle,
    streams: Sequence[npt.NDArray[np.float32]],
    *,
    rounds: int,
    local_steps: int,
    workdir: Path,
    seed: int = 0,
    memory_bytes: int = 4 << 20,
    on_round: OnRound | None = None,
) -> FederationResult:
    """Federate one real Learner per stream (N, *shape), each with a state directory in `workdir`.

    Learner i has the seed `seed` + i and observes its stream first; then `rounds` rounds of `local_steps` steps
    follow, all clients in each. A `workdir` used before is resumed: learners go on from their saved state, the
    federation from the bundle's factory weights. The same arguments and a fresh `workdir` give the same theta
    bit for bit. The final theta is returned, not adopted: the learners keep what their own last round left.
    """

    def open_learner(context: Context) -> Learner:
        i = int(context.node_config["partition-id"])
        learner = Learner.open(bundle, workdir / f"client-{i}", memory_bytes=memory_bytes, seed=seed + i)
        try:
            catch_up(learner, streams[i])
        except BaseException:
            learner.close()
            raise
        return learner

    history: list[dict[str, Any]] = []
    theta = bundle.state()["theta"]

    def remember(record: dict[str, Any], now: npt.NDArray[np.float32]) -> None:
        nonlocal theta
        theta = now
        history.append(record)
        if on_round is not None:
            on_round(record, now)

    settings = RoundSettings(rounds, min_nodes=len(streams), seed=seed)
    layout = bundle.manifest.parameters
    server = make_server_app(theta, bundle.digest, settings, layout=layout, on_round=remember)
    with ExitStack() as stack:
        stack.enter_context(compat.quiet())
        learners = stack.enter_context(Learners(open_learner))
        run_local(server, make_client_app(learners, local_steps=local_steps), len(streams))
    return FederationResult(theta, history, sum(record["seconds"] for record in history))
