"""Messages and replies over a grid that may lose either, and that is too busy at times."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from edgessl.errors import FederationError
from federated import compat
from federated.compat.replies import Replies
from federated.message import again, repeat

CLOCKS = 600.0  # seconds that a device's clock may be off: a SuperLink takes no signature of more than five minutes
_AT_ONCE = 8  # replies in memory at once, of a grid that hands over all that it has
_NAMES = 1000  # asked for at once where replies are taken one by one
MOST_REMINDERS = 3
_ATTEMPTS, _BUSY_SECONDS = 6, 2.0
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Asked:
    """What a node was asked in a round, until when its reply is waited for, and when the node is to be reminded.

    `first` is the message's name, `names` those under which a reply may come: reminders have names of their own.
    """

    node: int
    round: int
    first: str
    message: Message = field(repr=False)
    deadline: float
    remind_at: float
    reminded: int = 0
    names: set[str] = field(default_factory=set)


class Traffic:
    """What is on its way, and how long it may take, by the grid's clock where it has `now()` and `wait(seconds)`.

    A SuperLink hands a message out once, and a reply too. Where the answer that brings one is lost on the way, or not
    even sent because the database was locked for more than five seconds, the node is online and silent for ever. So a
    node that is silent for `remind_after` seconds is sent its message once more, and so is one whose reply got lost, up
    to three times. Who answered before says the same again (federated.node) or refuses (federated.client), and of its
    replies one counts. 0: never. A grid that loses nothing says so by its attribute `lossless`.
    """

    def __init__(self, grid: Grid, timeout: float, remind_after: float = 0.0) -> None:
        self.grid, self.timeout = grid, timeout
        self._remind_after = math.inf if getattr(grid, "lossless", False) or not remind_after else remind_after
        self.now: Callable[[], float] = getattr(grid, "now", time.monotonic)
        self.wait: Callable[[float], None] = getattr(grid, "wait", time.sleep)
        self._replies = Replies.of(grid)
        self._under_way: dict[str, Asked] = {}  # by first
        self._names: dict[str, Asked] = {}
        self._settled: set[str] = set()  # names of those that were asked more than once and answered
        self._left: list[tuple[Asked | None, Message]] = []  # pulled, and not looked at yet

    @property
    def busy(self) -> set[int]:
        """Nodes that have not replied, in time to be asked again."""
        now = self.now()
        return {asked.node for asked in self._under_way.values() if asked.deadline > now}

    def waits_for(self, number: int) -> bool:
        """Whether a reply of round `number` may still come."""
        return any(asked.round == number for asked in self._under_way.values())

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
                asked = Asked(node, number, name, message, now + self.timeout, remind_at)
                self._under_way[name] = asked
                self._named(name, asked)
        return names

    def replies(self) -> Iterator[tuple[Asked | None, Message]]:
        """Replies that are there now, with what they reply to; None: nothing that was ever asked."""
        while self._left:
            yield self._left.pop(0)
        names, most = list(self._names), _NAMES if self._replies else _AT_ONCE
        for i in range(0, len(names), most):
            yield from self._pull(names[i : i + most])

    def overdue(self) -> list[Asked]:
        """What the time is up for; it is given up."""
        now = self.now()
        late = [asked for asked in self._under_way.values() if asked.deadline <= now]
        for asked in late:
            self._settle(asked)
        return late

    def remind(self) -> list[Asked]:
        """Send their message once more to nodes that have been silent for long, or whose reply was lost; to which."""
        now = self.now()
        silent = (asked for asked in self._under_way.values() if not self._coming(asked))
        due = [asked for asked in silent if asked.remind_at <= now and _may(asked)]
        messages = [repeat(asked.message, asked.first, asked.deadline - now + CLOCKS) for asked in due]
        names = self._push(messages) if messages else []
        for asked in due:
            asked.reminded += 1
            asked.remind_at = now + self._remind_after
        sent = []
        for name, asked in zip(names, due, strict=False):  # no names: too large all at once
            if name:
                self._named(name, asked)
                sent.append(asked)
        return sent

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
                messages[:] = [again(message) for message in messages]
        raise AssertionError  # not reached

    def _pull(self, names: list[str]) -> Iterator[tuple[Asked | None, Message]]:
        try:
            there = self._replies.pull(names) if self._replies else self.grid.pull_messages(names)
            replies = iter(there)
            try:
                for reply in replies:
                    yield from self._sorted(reply)
            finally:
                if isinstance(there, list):  # handed over once and for all, though nobody wanted to see more for now
                    self._left += [pair for reply in replies for pair in self._sorted(reply)]
        except Exception as error:
            _pass_over(error)

    def _sorted(self, reply: Message) -> Iterator[tuple[Asked | None, Message]]:
        name = reply.metadata.reply_to_message_id
        if (asked := self._names.get(name)) is None:
            if name not in self._settled:
                yield None, reply
            return
        if reply.has_error():
            asked.names.remove(name)
            self._gone(name, asked)
            if reply.error.code in compat.LOST:
                if _may(asked):
                    asked.remind_at = self.now()
                if _may(asked) or asked.names:
                    return
            elif asked.names:  # an error perhaps because another of its messages was answered
                yield from self._pull(list(asked.names))
                if asked.first not in self._under_way:
                    return
        self._settle(asked)
        yield asked, reply

    def _coming(self, asked: Asked) -> bool:
        """Whether the node is handing over its reply."""
        return self._replies is not None and any(name in self._replies for name in asked.names)

    def _named(self, name: str, asked: Asked) -> None:
        asked.names.add(name)
        self._names[name] = asked

    def _gone(self, name: str, asked: Asked) -> None:
        """No reply is waited for under that name any longer."""
        del self._names[name]
        if self._replies:
            self._replies.forget(name)
        if asked.reminded:
            self._settled.add(name)

    def _settle(self, asked: Asked) -> None:
        del self._under_way[asked.first]
        for name in asked.names:
            self._gone(name, asked)


def _may(asked: Asked) -> bool:
    """Whether the node may be reminded once more."""
    return asked.remind_at < math.inf and asked.reminded < MOST_REMINDERS


def _pass_over(error: Exception) -> None:
    """Note that the SuperLink failed for the moment; any other error goes on its way."""
    if not compat.temporary(error):
        raise error
    _log.warning("the SuperLink is too busy: %s", error)
