"""A grid with a virtual clock: hours of a fleet of slow devices happen as fast as its clients compute.

The server's waiting moves the clock. Devices follow the models of `fleet`: a message waits until the device looks for
it and its link is up, travels, is computed on after what the device does already, and its reply travels back; the
server handles messages and replies one after the other. Times do not depend on the machine that simulates.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from flwr.app import Message

from edgessl.errors import FederationError
from federated import compat
from federated.simulation.fleet import Fleet, Trip
from federated.simulation.grid import FIRST_NODE, Client, Letter, LocalGrid, unavailable


class VirtualGrid(LocalGrid):
    """A LocalGrid that takes virtual time: `now()` and `wait(seconds)` are what a server asks in place of `time`.

    Clients run in the order of virtual time, when the clock has come to the end of their computation; the replies on
    their way are held as wire bytes. A run takes the same course each time, bit for bit.
    """

    def __init__(self, client: Client, fleet: Fleet, run_config: Mapping[str, Any] | None = None) -> None:
        super().__init__(client, len(fleet.devices), run_config)
        self.fleet = fleet
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._messages = [0] * self.num_nodes
        self._free = [0.0] * self.num_nodes
        self._server_free = 0.0
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

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    def _serve(self, time: float) -> float:
        """The server takes up a request that came at `time`; when it is done with it."""
        self._server_free = max(time, self._server_free) + self.fleet.server_s
        return self._server_free

    def _fetch(self, name: str, letter: Letter, trip: Trip, time: float) -> None:
        node, device = letter.partition, self.fleet.devices[letter.partition]
        arrived = self._serve(time) + trip.latency_s + len(letter.content) / device.down
        begun = max(arrived, self._free[node])
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
        self._at(self._serve(time), partial(self._deliver, name, reply, content))

    def _deliver(self, name: str, reply: Message, content: bytes | None, time: float) -> None:
        compat.stamp(reply)
        self._ready[name] = reply, content
