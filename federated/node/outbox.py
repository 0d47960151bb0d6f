"""A reply on its way to the server: announced once, then handed over object by object."""

from __future__ import annotations

from federated.compat import fleet
from federated.node.link import Link, LinkError


class Outbox:
    """Pushes replies over `link`; what a cut interrupted goes on in the same session.

    To announce it again would lose it: once the ServerApp has taken the first announcement, the SuperLink takes no
    second one, and the ServerApp waits for the objects of the first.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._reply = ""  # the message that the reply under way is for
        self._session = ""
        self._wanted: list[str] = []
        self._refused: list[str] = []

    def deliver(self, node: int, reply: fleet.Packed, seconds: float) -> None:
        """Push a reply that took `seconds` to make; LinkError: call again with the same reply."""
        if self._reply != reply.reply_to:
            wanted, self._session = self.link.call(fleet.push(node, reply, seconds))
            self._wanted, self._refused = [name for name in reply.objects if name in wanted], []
            self._reply = reply.reply_to
        while self._wanted:
            if not self._taken(node, reply, self._wanted[0]):
                self._refused.append(self._wanted[0])
            self._wanted.pop(0)
        # an object is refused when it is there already, its answer lost; when the database was busy; when the session
        # is over: the second is worth another try, and whether it was the third shows in a new announcement
        again = [name for name in self._refused if not self._taken(node, reply, name)]
        self._reply = ""
        if again:
            raise LinkError(f"{len(again)} objects were not taken: the session is over, or they are there already")

    def _taken(self, node: int, reply: fleet.Packed, name: str) -> bool:
        return self.link.call(fleet.push_object(node, reply.run_id, self._session, name, reply.objects[name]))
