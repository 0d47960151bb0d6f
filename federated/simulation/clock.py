"""A grid with a virtual clock: hours of a fleet of slow devices happen as fast as its clients compute.

The server's waiting moves the clock. Devices follow the models of `fleet`: a message waits until the device looks for
it and its link is up, travels, is computed on after what the device does already, and its reply travels back; the
server shares its time among the messages and replies it has. Times do not depend on the machine that simulates.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from flwr.app import Message

from edgessl.errors import FederationError
from federated import compat
from federated.simulation.fleet import Fleet, Trip
from federated.simulation.grid import FIRST_NODE, Client, Letter, LocalGrid, unavailable

Happen = Callable[[float], None]
"""What happens at a time."""
_ROUNDING = 1e-9  # of seconds of service


class VirtualGrid(LocalGrid):
    """A LocalGrid that takes virtual time: `now()` and `wait(seconds)` are what a server asks in place of `time`.

    Clients run in the order of virtual time, when the clock has come to the end of their computation; the replies on
    their way are held as wire bytes. A run takes the same course each time, bit for bit.
    """

    def __init__(self, client: Client, fleet: Fleet, run_config: Mapping[str, Any] | None = None) -> None:
        super().__init__(client, len(fleet.devices), run_config)
        self.fleet = fleet
        self._now = 0.0
        self._events: list[tuple[float, int, Happen]] = []
        self._order = itertools.count()
        self._messages = [0] * self.num_nodes
        self._free = [0.0] * self.num_nodes
        self._server = SharedServer(fleet.server_s, self._at)
        self._ready: dict[str, tuple[Message, bytes | None]] = {}

    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Let the clock run."""
        if not seconds > 0:
            raise FederationError(f"a virtual clock cannot wait {seconds} s: it would stand still for ever")
        self._now += seconds
        while self._events and self._events[0][0] <= self._now:
            time, _, happen = heapq.heappop(self._events)
            happen(time)

    def get_node_ids(self) -> list[int]:
        """The nodes whose links are up now."""
        up = (i for i in range(self.num_nodes) if self.fleet.reachable(i, self._now) == self._now)
        return [FIRST_NODE + i for i in up]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages, which are on their way from now on; their names, in order."""
        names = super().push_messages(messages)
        for name in names:
            letter = self._sent.pop(name)
            node = letter.partition
            trip = self.fleet.trip(node, self._messages[node])
            self._messages[node] += 1
            self._at(self.fleet.reachable(node, self._now + trip.poll_s), partial(self._fetch, name, letter, trip))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that have arrived."""
        for name in list(message_ids):
            if name in self._ready:
                reply, content = self._ready.pop(name)
                if content is not None:
                    reply.content = compat.decode(content)
                yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies that arrive within `timeout` seconds, or all of them."""
        names = self.push_messages(messages)
        end = self._now + timeout if timeout is not None else float("inf")
        while self._events and self._now < end and not all(name in self._ready for name in names):
            self.wait(max(min(self._events[0][0], end) - self._now, 1e-9))
        return list(self.pull_messages(names))

    def _at(self, time: float, happen: Happen) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    def _fetch(self, name: str, letter: Letter, trip: Trip, time: float) -> None:
        self._server.take(time, partial(self._hand_out, name, letter, trip))

    def _hand_out(self, name: str, letter: Letter, trip: Trip, time: float) -> None:
        node, device = letter.partition, self.fleet.devices[letter.partition]
        begun = max(time + trip.latency_s + len(letter.content) / device.down, self._free[node])
        if trip.dies:
            self.bytes_down += len(letter.content)
            self._at(begun + self.fleet.patience_s, partial(self._deliver, name, unavailable(letter), None))
            return
        self._free[node] = begun + trip.compute_s
        self._at(self._free[node], partial(self._compute, name, letter, trip))

    def _compute(self, name: str, letter: Letter, trip: Trip, time: float) -> None:
        reply, content = self._run_client(letter)
        travels = trip.latency_s + len(content or b"") / self.fleet.devices[letter.partition].up
        sent = self.fleet.reachable(letter.partition, time)
        self._at(sent + travels, partial(self._land, name, reply, content))

    def _land(self, name: str, reply: Message, content: bytes | None, time: float) -> None:
        self._server.take(time, partial(self._deliver, name, reply, content))

    def _deliver(self, name: str, reply: Message, content: bytes | None, time: float) -> None:
        compat.stamp(reply)
        self._ready[name] = reply, content


class SharedServer:
    """A server whose time all that it handles share alike, `work` seconds of it each (egalitarian processor sharing).

    So does a SuperLink: a message takes a dozen requests, and those of all devices alternate. What comes alone is done
    after `work`; of n that come together none is done before n x `work` (Kleinrock, Queueing Systems II, 1976, 4.4).
    `at(time, happen)` is asked to let things happen.
    """

    def __init__(self, work: float, at: Callable[[float, Happen], None]) -> None:
        self._work, self._at = work, at
        self._inside: deque[tuple[float, Happen]] = deque()  # the service at which each is done: first in, first out
        self._service = 0.0  # seconds of work that each of those inside has had since the beginning of time
        self._time = 0.0
        self._changes = 0

    def take(self, time: float, done: Happen) -> None:
        """What comes at `time`; `done` happens when it was handled."""
        self._advance(time)
        self._inside.append((self._service + self._work, done))
        self._announce()

    def _advance(self, time: float) -> None:
        if self._inside:
            self._service += (time - self._time) / len(self._inside)
        self._time = time

    def _announce(self) -> None:
        """The next one is done at this time, unless something comes before."""
        self._changes += 1
        left = max(0.0, self._inside[0][0] - self._service)
        self._at(self._time + left * len(self._inside), partial(self._finish, self._changes))

    def _finish(self, change: int, time: float) -> None:
        if change != self._changes:
            return
        self._advance(time)
        self._service = max(self._service, self._inside[0][0])  # it is done, whatever rounding says
        done = []
        while self._inside and self._inside[0][0] <= self._service + _ROUNDING:
            done.append(self._inside.popleft()[1])
        if self._inside:
            self._announce()
        for happen in done:
            happen(time)
