"""What a server sends and gets back: every message accounted for, every reply checked before a strategy sees it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict

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
from federated.traffic import Asked, Traffic

POLL_SECONDS = 0.5


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


class Exchange:
    """The traffic of one run, every message accounted for (Flower's send_and_receive would hold all replies)."""

    def __init__(self, traffic: Traffic, digest: str, size: int, downlink: Downlink | None = None) -> None:
        self.traffic, self.downlink, self._digest, self._size = traffic, downlink, digest, size
        self.now, self.wait, self.tally = traffic.now, traffic.wait, Tally()

    def push(self, messages: list[Message], number: int, *, remind: bool = True) -> None:
        """Send the messages of round `number`, `remind` as Traffic.send; what cannot be sent is a node's failure."""
        if self.downlink is not None:
            self.downlink.address(messages)
        names = self.traffic.send(messages, number, remind=remind)
        self.tally.asked += len(messages)
        for message, name in zip(messages, names, strict=True):
            if not name:
                self.tally.failures[str(message.metadata.dst_node_id)] = "the message could not be sent"
        self._went(message for message, name in zip(messages, names, strict=True) if name)

    def pull(self) -> Iterator[tuple[Asked, Message]]:
        """Replies that are there now, with what they reply to; replies to nothing that was asked are dropped."""
        for asked, reply in self.traffic.replies():
            if asked is None:
                self.tally.failures[str(reply.metadata.src_node_id)] = "refused: a reply to nothing that was asked"
            else:
                self._heard(asked.node, reply)
                yield asked, reply

    def drain(self) -> None:
        """Take what came too late, so that the nodes it is from are not busy any longer."""
        for _ in self.pull():
            self.tally.late += 1

    def tend(self) -> list[Asked]:
        """Give up what is overdue, and say what that is; remind those who are silent."""
        late = self.traffic.overdue()
        for asked in late:
            self.tally.failures[str(asked.node)] = f"no reply within {self.traffic.timeout:g} s"
            self._holds(asked.node, None)
        reminded = self.traffic.remind()
        self.tally.reminded += len(reminded)
        self._went(asked.message for asked in reminded)
        return late

    def _went(self, messages: Iterable[Message]) -> None:
        """Note what these messages cost."""
        sizes = dict[int, int]()
        for message in messages:
            if id(message.content) not in sizes:  # all messages of a round share one
                sizes[id(message.content)] = wire_bytes(message.content)
            self.tally.down(message.metadata.dst_node_id, sizes[id(message.content)])

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
            self.tend()
            if not self.traffic.waits_for(number):
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
        self.tend()

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
