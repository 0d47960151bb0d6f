"""Messages and replies over a grid that may lose either, and that is too busy at times."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from flwr.app import Message
from flwr.serverapp import Grid

from edgessl.errors import FederationError
from federated import compat
from federated.message import repeat

CLOCKS = 600.0  # seconds that a device's clock may be off: a SuperLink takes no signature of more than five minutes
PULL = 8  # replies in memory at once
_ATTEMPTS, _BUSY_SECONDS = 3, 2.0
_log = logging.getLogger(__name__)


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


class Traffic:
    """What is on its way, and how long it may take, by the grid's clock where it has `now()` and `wait(seconds)`.

    A SuperLink hands a message out once, and a reply too. Where the answer that brings one is lost on the way, or not
    even sent because the database was locked for more than five seconds, the node is online and silent for ever. So a
    node that is silent for `remind_after` seconds is sent its message once more, and so is one whose reply got lost.
    Who answered before says the same again (federated.node) or refuses (federated.client), and of two replies one
    counts. 0: never. A grid that loses nothing says so by its attribute `lossless`.
    """

    def __init__(self, grid: Grid, timeout: float, remind_after: float = 0.0) -> None:
        self.grid, self.timeout = grid, timeout
        self._remind_after = math.inf if getattr(grid, "lossless", False) or not remind_after else remind_after
        self.now: Callable[[], float] = getattr(grid, "now", time.monotonic)
        self.wait: Callable[[float], None] = getattr(grid, "wait", time.sleep)
        self._pending: dict[str, Asked] = {}
        self._lost: dict[str, Asked] = {}  # their nodes are to be reminded now
        self._twins: dict[str, str] = {}  # a message and the one that repeats it, both ways
        self._settled: set[str] = set()  # their twin was answered
        self._left: list[tuple[Asked | None, Message]] = []  # pulled, and not looked at yet

    @property
    def busy(self) -> set[int]:
        """Nodes that have not replied, in time to be asked again."""
        now = self.now()
        return {asked.node for asked in self._under_way() if asked.deadline > now}

    def waits_for(self, number: int) -> bool:
        """Whether a reply of round `number` may still come."""
        return any(asked.round == number for asked in self._under_way())

    def nodes(self) -> list[int]:
        """The nodes that are online; none while the SuperLink is too busy to say."""
        try:
            return list(self.grid.get_node_ids())
        except Exception as error:
            _pass_over(error)
            return []

    def send(self, messages: list[Message], number: int, *, remind: bool = True) -> list[str]:
        """Send the messages of round `number`; their names, "" for one that was not taken.

        `remind` False: a node may be asked this once only. FederationError when the SuperLink takes nothing.
        """
        for message in messages:
            message.metadata.ttl = self.timeout + CLOCKS  # a device that comes back later does no work for nobody
        names = self._push(messages)
        if len(names) != len(messages):  # how Flower says "payload too large"
            raise FederationError(
                f"round {number}: the SuperLink took {len(names)} of {len(messages)} messages; "
                "ask fewer nodes at once (fraction_train) or raise its payload limit"
            )
        now = self.now()
        remind_at = now + self._remind_after if remind else math.inf
        for message, name in zip(messages, names, strict=True):
            if name:
                node = message.metadata.dst_node_id
                self._pending[name] = Asked(node, number, remind_at, now + self.timeout, message)
        return names

    def replies(self) -> Iterator[tuple[Asked | None, Message]]:
        """Replies that are there now, with what they reply to; None: nothing that was ever asked."""
        while self._left:
            yield self._left.pop(0)
        names = list(self._pending)
        for i in range(0, len(names), PULL):
            yield from self._pull(names[i : i + PULL])

    def overdue(self) -> list[Asked]:
        """Messages whose time is up; they are given up."""
        now, late = self.now(), list[Asked]()
        for name, asked in [*self._pending.items(), *self._lost.items()]:
            if asked.deadline <= now and not asked.first:
                self._lost.pop(name, None)
                self._pending.pop(name, None)
                self._settle(name)
                late.append(asked)
        return late

    def remind(self) -> list[Asked]:
        """Send their message once more to nodes that have been silent for long, or whose reply was lost; to which."""
        now = self.now()
        silent = {name: asked for name, asked in self._pending.items() if asked.remind_at <= now}
        self._pending |= {name: replace(asked, remind_at=math.inf) for name, asked in silent.items()}
        due, self._lost = silent | self._lost, {}
        messages = [repeat(asked.message, name, asked.deadline - now + CLOCKS) for name, asked in due.items()]
        names = self._push(messages) if messages else []
        sent = []
        for name, (first, asked) in zip(names, due.items(), strict=False):  # none of them: too large all at once
            if name:
                self._pending[name] = replace(asked, remind_at=math.inf, first=first)
                self._twins |= {name: first, first: name}
                sent.append(asked)
        return sent

    def _under_way(self) -> list[Asked]:
        return [*self._pending.values(), *self._lost.values()]

    def _push(self, messages: list[Message]) -> list[str]:
        """Push to the grid; anew, as other messages, when it was too busy: nobody knows how many of these it took."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return list(self.grid.push_messages(messages))
            except Exception as error:
                if attempt == _ATTEMPTS:
                    raise
                _pass_over(error)
                self.wait(_BUSY_SECONDS)
                for i, old in enumerate(messages):
                    about = old.metadata
                    messages[i] = Message(
                        old.content, about.dst_node_id, about.message_type, ttl=about.ttl, group_id=about.group_id
                    )
        raise AssertionError  # not reached

    def _pull(self, names: list[str]) -> Iterator[tuple[Asked | None, Message]]:
        try:
            there = self.grid.pull_messages(names)
        except Exception as error:
            _pass_over(error)
            return
        replies = iter(there)
        try:
            for reply in replies:
                yield from self._sorted(reply)
        finally:
            if isinstance(there, list):  # handed over once and for all, though nobody wanted to see more for now
                self._left += [pair for reply in replies for pair in self._sorted(reply)]

    def _sorted(self, reply: Message) -> Iterator[tuple[Asked | None, Message]]:
        name = reply.metadata.reply_to_message_id
        if (asked := self._pending.pop(name, None)) is None:
            if name not in self._settled:
                yield None, reply
            return
        if reply.has_error():
            if reply.error.code in compat.LOST and asked.remind_at < math.inf:
                self._lost[name] = asked
                return
            if asked.first:  # perhaps because the first was answered
                yield from self._pull([asked.first])
        if self._settle(name):
            yield asked, reply

    def _settle(self, name: str) -> bool:
        """A message has its reply, and so has the one that it repeats or is repeated by; False if it had one before."""
        if name in self._settled:
            return False
        if (twin := self._twins.pop(name, None)) is not None:
            del self._twins[twin]
            self._pending.pop(twin, None)
            self._settled.add(twin)
        return True


def _pass_over(error: Exception) -> None:
    """Note that the SuperLink failed for the moment; any other error goes on its way."""
    if not compat.temporary(error):
        raise error
    _log.warning("the SuperLink is too busy: %s", error)
