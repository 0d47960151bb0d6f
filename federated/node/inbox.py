"""Messages on their way to a device: announced once, fetched object by object, kept, confirmed."""

from __future__ import annotations

import time

from flwr.app import Message

from edgessl.errors import FederationError
from federated.compat import fleet
from federated.node.letters import Letters
from federated.node.link import Link
from federated.node.pace import Pace
from federated.node.settings import SLACK_BYTES

PATIENCE = 60.0  # seconds for an object that was announced: its server may have failed halfway, and other messages wait


class Inbox:
    """What comes over `link` goes to `letters`; nothing of more than `max_bytes` is taken.

    A SuperLink announces a message once, and a message that nobody fetches then is lost. So what was announced, and the
    objects that came, are remembered until `done`: a link that is cut in between costs time alone.
    """

    def __init__(self, link: Link, letters: Letters, max_bytes: int) -> None:
        self.link, self.letters, self.max_bytes = link, letters, max_bytes
        self._announced: fleet.Announced | None = None
        self._objects: dict[str, bytes] = {}
        self._node = 0

    def look(self, node: int) -> fleet.Announced | None:
        """The message that waits for this node, the same one until `done`; None when there is none."""
        if self._announced is None or self._node != node:
            self._objects, self._node = {}, node
            self._announced = self.link.call(fleet.pull(node))
        return self._announced

    def fetch(self) -> Message:
        """The announced message, kept on the disk; FederationError where it is not what it should be."""
        announced = self._announced
        assert announced is not None
        answer_bytes, objects = self.max_bytes + SLACK_BYTES, self._objects
        for name in announced.objects:
            if name in objects:
                continue
            wait, call = Pace(0.2, 5.0), fleet.pull_object(self._node, announced.run_id, name)
            until = time.monotonic() + PATIENCE
            while (content := self.link.call(call, answer_bytes)) is None:
                if time.monotonic() > until:
                    raise FederationError(f"object {name[:12]} of a message did not come within {PATIENCE:g} s")
                time.sleep(wait.wait())
            objects[name] = content
            if sum(map(len, objects.values())) > self.max_bytes:
                raise FederationError(f"a message of more than {self.max_bytes} bytes is not accepted here")
        message = fleet.assemble(announced.name, objects, self.max_bytes)
        self.letters.keep_message(announced.name, objects, announced.expires)
        return message

    def done(self) -> None:
        """The message is kept, answered or refused: tell the SuperLink, which forgets its objects."""
        announced, self._announced, self._objects = self._announced, None, {}
        assert announced is not None
        self.link.call(fleet.confirm(self._node, announced.run_id, announced.name))

    def forget(self) -> None:
        """Nobody waits for an answer to it."""
        self._announced, self._objects = None, {}
