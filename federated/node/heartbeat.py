"""Signs of life on a connection of their own while there is work, however long that takes."""

from __future__ import annotations

import logging
import threading

from edgessl.errors import FederationError
from federated.compat import fleet
from federated.node.link import Link

_log = logging.getLogger(__name__)


class Heartbeat:
    """Beats for the node `work_for`, None while there is no work; `unknown` is set when the SuperLink knows it no more.

    `seconds`: the promise; a beat comes every 0.8 of it.
    """

    def __init__(self, link: Link, seconds: float) -> None:
        self._like, self.seconds = link, seconds
        self.work_for: int | None = None
        self.unknown = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        link = Link(self._like.server, self._like.identity, self._like.tls, self._like.timeout)
        while not stop.wait(0.8 * self.seconds):
            if (node := self.work_for) is None:
                continue
            try:
                if not link.call(fleet.beat(node, self.seconds)):
                    self.unknown.set()
            except FederationError as error:
                _log.info("heartbeat: %s", error)
        link.close()
