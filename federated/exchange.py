"""What a server sends and gets back: every message accounted for, every reply checked before a strategy sees it."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
    repeat,
    unpack,
)

CLOCKS = 600.0  # seconds that a device's clock may be off: a SuperLink takes no signature of more than five minutes
POLL_SECONDS = 0.5
PULL = 8  # replies in memory at once


@dataclass
class Tally:
    """What happened since the last version of the weights.

    `asked`: messages sent; `goal`: good replies that are enough; `failures`: node id to reason, of what came too late
    or could not be used; `late`: replies to earlier rounds; `reminded`: messages sent to a silent node once more.
    """

    asked: int = 0
    goal: int = 0
    clients: int = 0
    examples: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    late: int = 0
    reminded: int = 0
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
    """A message on its way: to which node, in which round, when to remind the node, and how long its reply may take.

    `first` names the message that this one repeats.
    """

    node: int
    round: int
    remind_at: float
    deadline: float
    message: Message = field(repr=False)
    first: str = ""


class Exchange:
    """The traffic of one run over Flower's push and pull (send_and_receive would hold all replies, and poll every 3 s).

    Time is the grid's where it has `now()` and `wait(seconds)`, as simulations with a virtual clock do.

    A SuperLink hands a message out once: where its answer is lost on the way, or the device loses power over it, the
    node is online and silent for ever. So a node that is silent for `remind_after` seconds is sent its message once
    more; who has answered it already says the same again (federated.node) or refuses it (federated.client), and of two
    replies one counts. 0: never. A grid that loses nothing says so by its attribute `lossless`.
    """

    def __init__(
        self,
        grid: Grid,
        digest: str,
        size: int,
        timeout: float,
        downlink: Downlink | None = None,
        *,
        remind_after: float = 0.0,
    ) -> None:
        self.downlink = downlink
        self.grid, self._digest, self._size, self._timeout = grid, digest, size, timeout
        self._remind_after = 0.0 if getattr(grid, "lossless", False) else remind_after
        self.now: Callable[[], float] = getattr(grid, "now", time.monotonic)
        self.wait: Callable[[float], None] = getattr(grid, "wait", time.sleep)
        self.tally = Tally()
        self._pending: dict[str, Asked] = {}
        self._twins: dict[str, str] = {}  # a message and the one that repeats it, both ways
        self._settled: set[str] = set()  # their twin was answered

    @property
    def busy(self) -> set[int]:
        """Nodes that have not replied, in time to be asked again."""
        now = self.now()
        return {asked.node for asked in self._pending.values() if asked.deadline > now}

    def push(self, messages: list[Message], number: int) -> None:
        """Send the messages of round `number`; what cannot be sent is a failure of its node."""
        if self.downlink is not None:
            self.downlink.address(messages)
        for message in messages:
            message.metadata.ttl = self._timeout + CLOCKS  # a device that comes back later does no work for nobody
        names = list(self.grid.push_messages(messages))
        if len(names) != len(messages):  # how Flower says "payload too large"
            raise FederationError(
                f"round {number}: the SuperLink took {len(names)} of {len(messages)} messages; "
                "ask fewer nodes at once (fraction_train) or raise its payload limit"
            )
        self.tally.asked += len(messages)
        now, sizes = self.now(), dict[int, int]()
        remind_at = now + self._remind_after
        for message, name in zip(messages, names, strict=True):
            node = message.metadata.dst_node_id
            if not name:
                self.tally.failures[str(node)] = "the message could not be sent"
                continue
            if id(message.content) not in sizes:  # all messages of a round share one
                sizes[id(message.content)] = wire_bytes(message.content)
            self.tally.down(node, sizes[id(message.content)])
            self._pending[name] = Asked(node, number, remind_at, now + self._timeout, message)

    def pull(self) -> Iterator[tuple[Asked, Message]]:
        """Replies that are there now, with what they reply to; replies to nothing that was asked are dropped."""
        names = list(self._pending)
        for i in range(0, len(names), PULL):
            yield from self._pull(names[i : i + PULL])

    def _pull(self, names: list[str]) -> Iterator[tuple[Asked, Message]]:
        there = self.grid.pull_messages(names)
        replies = iter(there)
        try:
            for reply in replies:
                if (asked := self._pending.pop(name := reply.metadata.reply_to_message_id, None)) is not None:
                    if asked.first and reply.has_error():  # perhaps because the first was answered
                        yield from self._pull([asked.first])
                    if self._settle(name):
                        self._heard(asked.node, reply)
                        yield asked, reply
                elif name in self._settled:
                    self.tally.late += 1
                else:
                    self.tally.failures[str(reply.metadata.src_node_id)] = "refused: a reply to nothing that was asked"
        finally:
            if isinstance(there, list):  # already handed over: nobody will see them if we stopped in between
                for reply in replies:
                    name = reply.metadata.reply_to_message_id
                    if (asked := self._pending.pop(name, None)) and self._settle(name):
                        self._holds(asked.node, None)
                    self.tally.late += 1

    def _settle(self, name: str) -> bool:
        """A message has its reply, and so has the one that it repeats or is repeated by; False if it had one before."""
        if name in self._settled:
            return False
        if (twin := self._twins.pop(name, None)) is not None:
            del self._twins[twin]
            self._pending.pop(twin, None)
            self._settled.add(twin)
        return True

    def drain(self) -> None:
        """Take what came too late, so that the nodes it is from are not busy any longer."""
        for _ in self.pull():
            self.tally.late += 1

    def overdue(self) -> list[Asked]:
        """Messages whose time is up; they are given up."""
        now = self.now()
        late = {name: asked for name, asked in self._pending.items() if asked.deadline <= now and not asked.first}
        for name, asked in late.items():
            del self._pending[name]
            self._settle(name)
            self.tally.failures[str(asked.node)] = f"no reply within {self._timeout:g} s"
            self._holds(asked.node, None)
        return list(late.values())

    def remind(self) -> None:
        """Send their message once more to nodes that have been silent for long."""
        now = self.now()
        silent = {name: asked for name, asked in self._pending.items() if asked.remind_at <= now}
        if not self._remind_after or not silent:
            return
        messages = [repeat(asked.message, name) for name, asked in silent.items()]
        for message, asked in zip(messages, silent.values(), strict=True):
            message.metadata.ttl = asked.deadline - now + CLOCKS
        names = list(self.grid.push_messages(messages)) or [""] * len(messages)
        for name, (first, asked), message in zip(names, silent.items(), messages, strict=True):
            self._pending[first] = replace(asked, remind_at=math.inf)
            if name:
                self._pending[name] = replace(asked, remind_at=math.inf, first=first)
                self._twins |= {name: first, first: name}
                self.tally.reminded += 1
                self.tally.down(asked.node, wire_bytes(message.content))

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
            self.remind()
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
