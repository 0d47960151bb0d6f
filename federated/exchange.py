"""What a server sends and gets back: every message accounted for, every reply checked before a strategy sees it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from edgessl.errors import FederationError
from federated.codecs.downlink import Downlink
from federated.compat import wire_bytes
from federated.message import (
    ARRAYS,
    EXAMPLES,
    METRICS,
    PAYLOAD,
    THETA,
    VERSION,
    Float,
    Update,
    config_of,
    records,
    unpack,
)

POLL_SECONDS = 0.5
PULL = 8  # replies in memory at once


@dataclass
class Tally:
    """What happened since the last version of the weights.

    `asked`: messages sent; `goal`: good replies that are enough; `failures`: node id to reason, of what came too late
    or could not be used; `late`: replies to earlier rounds.
    """

    asked: int = 0
    goal: int = 0
    clients: int = 0
    examples: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    late: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    devices: dict[str, list[int]] = field(default_factory=dict)  # node id to bytes down and up

    def down(self, node: int, size: int) -> None:
        """Bytes went to a node."""
        self.bytes_down += size
        self.devices.setdefault(str(node), [0, 0])[0] += size

    def up(self, node: int, size: int) -> None:
        """Bytes came from a node."""
        self.bytes_up += size
        self.devices.setdefault(str(node), [0, 0])[1] += size


@dataclass(frozen=True)
class Asked:
    """A message on its way: to which node, in which round, when, and how long it may take."""

    node: int
    round: int
    began: float
    deadline: float


class Exchange:
    """The traffic of one run over Flower's push and pull (send_and_receive would hold all replies, and poll every 3 s).

    Time is the grid's where it has `now()` and `wait(seconds)`, as simulations with a virtual clock do.
    """

    def __init__(self, grid: Grid, digest: str, size: int, timeout: float, downlink: Downlink | None = None) -> None:
        self.downlink = downlink
        self.grid, self._digest, self._size, self._timeout = grid, digest, size, timeout
        self.now: Callable[[], float] = getattr(grid, "now", time.monotonic)
        self.wait: Callable[[float], None] = getattr(grid, "wait", time.sleep)
        self.tally = Tally()
        self._pending: dict[str, Asked] = {}

    @property
    def busy(self) -> set[int]:
        """Nodes that have not replied, in time to be asked again."""
        now = self.now()
        return {asked.node for asked in self._pending.values() if asked.deadline > now}

    def push(self, messages: list[Message], number: int) -> None:
        """Send the messages of round `number`; what cannot be sent is a failure of its node."""
        if self.downlink is not None:
            self.downlink.address(messages)
        names = list(self.grid.push_messages(messages))
        if len(names) != len(messages):  # how Flower says "payload too large"
            raise FederationError(
                f"round {number}: the SuperLink took {len(names)} of {len(messages)} messages; "
                "ask fewer nodes at once (fraction_train) or raise its payload limit"
            )
        self.tally.asked += len(messages)
        began, sizes = self.now(), dict[int, int]()
        for message, name in zip(messages, names, strict=True):
            node = message.metadata.dst_node_id
            if not name:
                self.tally.failures[str(node)] = "the message could not be sent"
                continue
            if id(message.content) not in sizes:  # all messages of a round share one
                sizes[id(message.content)] = wire_bytes(message.content)
            self.tally.down(node, sizes[id(message.content)])
            self._pending[name] = Asked(node, number, began, began + self._timeout)

    def pull(self) -> Iterator[tuple[Asked, Message]]:
        """Replies that are there now, with what they reply to; replies to nothing that was asked are dropped."""
        names = list(self._pending)
        for i in range(0, len(names), PULL):
            there = self.grid.pull_messages(names[i : i + PULL])
            replies = iter(there)
            try:
                for reply in replies:
                    asked = self._pending.pop(reply.metadata.reply_to_message_id, None)
                    if asked is None:
                        node = str(reply.metadata.src_node_id)
                        self.tally.failures[node] = "refused: a reply to nothing that was asked"
                    else:
                        self._heard(asked.node, reply)
                        yield asked, reply
            finally:
                if isinstance(there, list):  # already handed over: nobody will see them if we stopped in between
                    for reply in replies:
                        if asked := self._pending.pop(reply.metadata.reply_to_message_id, None):
                            self._holds(asked.node, None)
                        self.tally.late += 1

    def drain(self) -> None:
        """Take what came too late, so that the nodes it is from are not busy any longer."""
        for _ in self.pull():
            self.tally.late += 1

    def overdue(self) -> list[Asked]:
        """Messages whose time is up; they are given up."""
        now = self.now()
        late = {name: asked for name, asked in self._pending.items() if asked.deadline <= now}
        for name, asked in late.items():
            del self._pending[name]
            self.tally.failures[str(asked.node)] = f"no reply within {self._timeout:g} s"
            self._holds(asked.node, None)
        return list(late.values())

    def _heard(self, node: int, reply: Message) -> None:
        """Note what any reply costs and says, whether or not it comes in time."""
        if reply.has_error():
            self._holds(node, None)
            return
        self.tally.up(node, wire_bytes(reply.content))
        if VERSION in (config := config_of(reply.content)):
            self._holds(node, config[VERSION])

    def _holds(self, node: int, version: Any) -> None:
        """A reply says, or the lack of one leaves open, which weights a node has."""
        if self.downlink is not None:
            self.downlink.holds(node, version if isinstance(version, str) else None)

    def accept(self, asked: Asked, reply: Message, references: Mapping[str, Float]) -> Update | None:
        """What a reply says; None, and the reason among the failures, for one that cannot be used."""
        if reply.has_error():
            self.tally.failures[str(asked.node)] = f"error {reply.error.code}: {reply.error.reason}"
            return None
        try:
            update = unpack(
                reply.content,
                bundle_digest=self._digest,
                size=self._size,
                round_number=asked.round,
                reply=True,
                references=references,
            )
        except FederationError as error:
            self.tally.failures[str(asked.node)] = f"refused: {error}"
            return None
        self.tally.clients += 1
        self.tally.examples += int(update.metrics[EXAMPLES])
        return update

    def collect(self, number: int, goal: int, references: Mapping[str, Float]) -> Iterator[tuple[Message, Update]]:
        """Good replies of round `number` as they come, until there are `goal`, or none is left, or time is up."""
        got = 0
        while True:
            for asked, reply in self.pull():
                if asked.round != number:
                    self.tally.late += 1
                elif (update := self.accept(asked, reply, references)) is not None:
                    yield reply, update
                    got += 1
                    if got == goal:
                        return
            self.overdue()
            if not any(asked.round == number for asked in self._pending.values()):
                return
            self.wait(POLL_SECONDS)

    def raw(self, number: int) -> Iterator[tuple[int, RecordDict]]:
        """What nodes replied to messages of round `number`, unchecked; errors and those overdue become failures."""
        for asked, reply in self.pull():
            if asked.round != number:
                self.tally.late += 1
            elif reply.has_error():
                self.tally.failures[str(asked.node)] = f"error {reply.error.code}: {reply.error.reason}"
            else:
                yield asked.node, reply.content
        self.overdue()

    def finish(self) -> Tally:
        """The tally so far; a new one begins."""
        tally, self.tally = self.tally, Tally()
        return tally


def dense(pairs: Iterable[tuple[Message, Update]]) -> Iterator[Message]:
    """Replies as Flower's own strategies want them: theta whole, whatever travelled."""
    for reply, update in pairs:
        if PAYLOAD in records(reply.content, ArrayRecord)[ARRAYS]:
            metrics: Any = reply.content[METRICS]
            arrays = ArrayRecord({THETA: Array(update.theta)})
            reply.content = RecordDict({ARRAYS: arrays, METRICS: metrics})
        yield reply
