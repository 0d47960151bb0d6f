"""The lean node: one process that takes a fleet's messages, learns, and replies; it runs no code but its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flwr.app import Error, Message

from edgessl.errors import EdgeSSLError, FederationError, StateError
from federated.compat import CLIENT_RAISED, fleet
from federated.message import repeated
from federated.node.gates import Gate
from federated.node.heartbeat import Heartbeat
from federated.node.inbox import Inbox
from federated.node.letters import Letters
from federated.node.link import Link, LinkError, RefusedError
from federated.node.outbox import Outbox
from federated.node.pace import Pace
from federated.node.settings import NodeSettings

Answer = Callable[[Message], Message]
Events = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)
_REASON = 1000  # characters of an error that the server gets
_UNKNOWN = "Its operator must register this device's key; if it is registered, another device uses it now."


class Node:
    """Takes messages from `link` and gives them to `answer`, one at a time.

    `answer` makes the reply (see federated.client.train_round); an EdgeSSLError from it becomes an error reply, as any
    other exception does, whose text stays on the device. `gates` are asked first. `on_event` is told what happens.
    """

    def __init__(
        self,
        link: Link,
        letters: Letters,
        answer: Answer,
        settings: NodeSettings | None = None,
        *,
        gates: Sequence[Gate] = (),
        on_event: Events | None = None,
    ) -> None:
        self.link, self.letters, self.answer = link, letters, answer
        self.settings, self.gates = settings or NodeSettings(), tuple(gates)
        self.tell = on_event or (lambda event: None)
        self.number: int | None = None  # of this node at the SuperLink, while it is active there
        self._known = False  # whether the SuperLink has ever taken us
        self._inbox, self._outbox = Inbox(link, letters, self.settings.max_bytes), Outbox(link)
        self._heart = Heartbeat(link, self.settings.heartbeat)
        self._beaten = 0.0  # when the SuperLink last heard that this node waits for messages
        self._poll = Pace(*self.settings.poll)
        self._away = Pace(min(1.0, self.settings.away), self.settings.away)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. RefusedError when the SuperLink refuses this device's key at the first contact."""
        beats = threading.Thread(target=self._heart.run, args=(stop,), name="heartbeat", daemon=True)
        beats.start()
        for problem in self.letters.problems:
            self._event("damaged", reason=problem)
        while not stop.is_set():
            stop.wait(self._turn())
        self._leave()
        beats.join(self.link.timeout)

    def _turn(self) -> float:
        """One exchange; returns the seconds until the next."""
        if reason := next((reason for gate in self.gates if (reason := gate())), None):
            self._event("gate", reason=reason)
            self._leave()
            return self.settings.gate
        try:
            wait = self._exchange()
        except LinkError as error:
            wait = self._away.wait()
            self._event("away", reason=str(error), wait=round(wait, 1))
        except StateError as error:  # a full disk, say; what was kept before is still there
            wait = self._away.wait()
            self._event("disk", reason=str(error), wait=round(wait, 1))
        except RefusedError as error:
            if not self._known:
                raise RefusedError(f"{error} {_UNKNOWN}", error.status, error.code) from None
            wait, self.number = self._away.wait(), None
            self._event("refused", reason=str(error), wait=round(wait, 1))
        except FederationError as error:
            wait = self._away.wait()
            self._event("nonsense", reason=str(error), wait=round(wait, 1))
        else:
            self._away.restart()
        return wait

    def _exchange(self) -> float:
        try:
            self._be_there()
        except LinkError:
            if (message := self._kept()) is not None:  # learning needs no link
                self._answer(message)
            raise
        if self.letters.reply() is not None:
            with self._working():
                self._deliver()
        message = self._kept() or self._receive()
        if message is not None or self.letters.reply() is not None:
            with self._working():
                if message is not None:
                    self._answer(message)
                self._deliver()
            self._poll.restart()
        self._wait_here()  # the next look may come later than a node at work would be missed
        return self._poll.wait()

    def _be_there(self) -> None:
        if self._heart.unknown.is_set():
            self.number = None
            self._heart.unknown.clear()
        if self.number is None:
            self._join()
        self._wait_here()

    def _wait_here(self) -> None:
        """Say at times that this node waits for messages, on the connection that asks for one."""
        interval = self.settings.idle_heartbeat
        if self.number is not None and time.monotonic() - self._beaten > 0.4 * interval:
            if not self.link.call(fleet.beat(self.number, interval)):
                self._heart.unknown.set()
                raise LinkError("the SuperLink does not know this node any longer")
            self._beaten = time.monotonic()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Beat faster: whoever has a message is missed soon when it is gone."""
        assert self.number is not None
        self._heart.work_for = self.number
        try:
            self.link.call(fleet.beat(self.number, self.settings.heartbeat))
            yield
        finally:
            self._heart.work_for, self._beaten = None, 0.0

    def _join(self) -> None:
        """Be a node of the SuperLink again, or for the first time.

        A heartbeat brings a known node back. Activation would not: a SuperLink refuses it for a minute after a node
        went without a goodbye, as devices that lose power do.
        """
        server, identity = self.link.server, self.link.identity
        number = self.letters.number(server)
        if number is not None and not self._still_known(number):
            number = None
        if number is None:
            if self.link.tls is None:  # such a SuperLink knows no keys beforehand
                try:
                    self.link.call(fleet.register(identity.public_key))
                except RefusedError as error:
                    if error.code != fleet.KEY_IN_USE:
                        raise
            number = self.link.call(fleet.activate(identity.public_key, self.settings.idle_heartbeat))
            self.letters.keep_number(server, number)
        self.number, self._known, self._beaten = number, True, time.monotonic()
        self._poll.restart()
        self._event("joined", node=number, server=server)

    def _still_known(self, number: int) -> bool:
        try:
            return self.link.call(fleet.beat(number, self.settings.idle_heartbeat))
        except RefusedError:  # the number is somebody else's now
            return False

    def _leave(self) -> None:
        if self.number is None:
            return
        number, self.number = self.number, None
        try:
            self.link.call(fleet.deactivate(number))
        except FederationError as error:
            _log.info("left without a goodbye: %s", error)
        self.link.close()
        self._event("left")

    def _receive(self) -> Message | None:
        """Fetch a message and keep it; None when there is none, or its reply is there already."""
        assert self.number is not None
        if (announced := self._inbox.look(self.number)) is None:
            return None
        message, first = None, repeated(announced.metadata)
        try:
            if self.letters.answered(announced.name):
                self._event("dropped", message=announced.name, reason="answered before")
            elif first and self.letters.answered(first):
                self._say_again(announced, first)
            else:
                with self._working():
                    message = self._fetch(announced)
            self._inbox.done()
        except RefusedError as error:
            if error.code != fleet.RUN_IS_OVER:
                raise
            self._event("dropped", message=announced.name, reason=str(error))
            self._inbox.forget()
            self.letters.drop_message()
            return None
        return message

    def _fetch(self, announced: fleet.Announced) -> Message | None:
        """The message, kept; where it is not what it should be, an error reply is kept instead."""
        try:
            return self._inbox.fetch()
        except (LinkError, RefusedError):
            raise
        except FederationError as error:
            self._keep(Message(Error(CLIENT_RAISED, f"{error}"[:_REASON]), reply_to=fleet.stub(announced)), 0.0)
            return None

    def _say_again(self, announced: fleet.Announced, first: str) -> None:
        """The server repeats a message that was answered: its reply once more, as long as it is there; no learning."""
        if (found := self.letters.delivered(first)) is not None:
            said, names = found
            self.letters.keep_reply(fleet.pack_again(said, announced), 0.0, *names)
            self._event("repeated", message=announced.name, first=first)
        else:
            error = Error(CLIENT_RAISED, f"message {first[:12]} was answered before, and the reply is no longer here")
            self._keep(Message(error, reply_to=fleet.stub(announced)), 0.0)

    def _kept(self) -> Message | None:
        """The message that was being answered when this device last stopped."""
        if (kept := self.letters.message()) is None:
            return None
        name, objects, expires = kept
        try:
            if self.letters.answered(name):
                raise FederationError("answered before")
            if time.time() > expires:
                raise FederationError("nobody waits for its reply any longer")
            return fleet.assemble(name, objects, self.settings.max_bytes)
        except FederationError as error:
            self._event("dropped", message=name, reason=str(error))
            self.letters.drop_message()
            return None

    def _answer(self, message: Message) -> None:
        """Make the reply and keep it."""
        began = time.monotonic()
        reply = self._reply(message)
        self._keep(reply, time.monotonic() - began)

    def _keep(self, reply: Message, seconds: float) -> None:
        first = repeated(reply.metadata)
        self.letters.keep_reply(fleet.pack_reply(reply), seconds, *([first] if first else []))
        outcome = {"error": reply.error.reason} if reply.has_error() else {}
        self._event("answered", message=reply.metadata.reply_to_message_id, seconds=round(seconds, 3), **outcome)

    def _reply(self, message: Message) -> Message:
        try:
            if message.metadata.message_type not in self.settings.message_types:
                allowed = ", ".join(sorted(self.settings.message_types))
                raise FederationError(f"{message.metadata.message_type!r} messages are not answered here: {allowed}")
            if message.metadata.dst_node_id != (own := self.number or self.letters.number(self.link.server)):
                raise FederationError(f"a message for node {message.metadata.dst_node_id}, this is {own}")
            return self.answer(message)
        except EdgeSSLError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            _log.exception("message %s could not be answered", message.metadata.message_id[:12])
            reason = f"{type(error).__name__} on the device; its log says more"
        return Message(Error(CLIENT_RAISED, reason[:_REASON]), reply_to=message)

    def _deliver(self) -> None:
        """Push the kept reply, if there is one; LinkError leaves it for the next time."""
        if (kept := self.letters.reply()) is None:
            return
        assert self.number is not None
        reply, seconds = kept
        try:
            if time.time() > reply.expires:
                raise RefusedError("it came too late: nobody waits for it any longer", 0, 0)
            self._outbox.deliver(self.number, reply, seconds)
        except RefusedError as error:
            if error.status in (401, 403) and error.code != fleet.RUN_IS_OVER:  # not the reply's fault
                raise
            self._event("undelivered", message=reply.reply_to, reason=str(error))
        else:
            self._event("delivered", message=reply.reply_to, bytes=sum(map(len, reply.objects.values())))
        self.letters.drop_reply()

    def _event(self, event: str, **about: Any) -> None:
        _log.info("%s %s", event, about)
        self.tell({"event": event, **about})
