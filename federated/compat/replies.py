"""Replies pulled from a SuperLink, none of which holds up another: in place of HttpGrid.pull_messages.

Flower's waits until every reply that was announced is there whole. A device that dies while it hands one over holds up
all others then, and the round's deadline, for the three minutes that a SuperLink keeps an unfinished reply. Where one
of its requests fails, all of them are lost, since a reply is announced once; and a reply that cannot be put together
ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto import message_pb2, runtime_pb2
from flwr.serverapp import Grid
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.superlink.grid.http_grid import HttpGrid

from federated.compat import CLIENT_RAISED, LOST, SERVER_NODE_ID, temporary

_REQUESTS = 8  # at once, for the objects of one reply


@dataclass(frozen=True)
class _Coming:
    """A reply that was announced: its name, the names of its objects, children first, and those that are here."""

    name: str
    objects: tuple[str, ...]
    here: dict[str, bytes] = field(default_factory=dict)


class Replies:
    """Takes a grid's replies as far as they are there, and remembers what has been announced."""

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._coming: dict[str, _Coming] = {}  # by what they reply to
        self._pool = ThreadPoolExecutor(_REQUESTS, "replies")

    @classmethod
    def of(cls, grid: Grid) -> Replies | None:
        """For a grid that speaks with a SuperLink; None for another."""
        return cls(grid) if isinstance(grid, HttpGrid) else None

    def __contains__(self, name: str) -> bool:
        """Whether the reply to the message of that name is on its way."""
        return name in self._coming

    def pull(self, names: Sequence[str]) -> Iterator[Message]:
        """The replies to the messages of these names that are there whole now.

        One that never will be is an error reply with code MESSAGE_UNAVAILABLE. What a request that fails leaves out,
        the next call brings. Raises what the grid's client raises.
        """
        if new := [name for name in names if name not in self._coming]:  # asked again, a SuperLink says it is gone
            announced = self._grid._runtime_client.PullMessages(runtime_pb2.PullAppMessagesRequest(message_ids=new))
            for head, tree in zip(announced.messages_list, announced.message_object_trees, strict=True):
                objects = dict.fromkeys(node.object_id for node in inflatable_object.iterate_object_tree(tree))
                self._coming[head.metadata.reply_to_message_id] = _Coming(head.metadata.message_id, tuple(objects))
        for name in names:
            if name in self._coming and (reply := self._take(name)) is not None:
                yield reply

    def forget(self, name: str) -> None:
        """Nobody waits any longer for the reply to that message."""
        self._coming.pop(name, None)

    def _take(self, name: str) -> Message | None:
        """The reply to the message of that name; None while it is not there whole."""
        coming = self._coming[name]
        last = coming.objects[-1:]  # what nodes hand over last: where it is missing, nothing else need be held
        for parts in (last, coming.objects[:-1]):
            wanted = [part for part in parts if part not in coming.here]
            for part, answer in zip(wanted, self._pool.map(self._object, wanted), strict=True):
                if not answer.object_found:
                    self.forget(name)
                    return _error(name, LOST[0], "the device did not hand over its reply to the end")
                if answer.object_available:
                    coming.here[part] = answer.object_content
            if not coming.here.keys() >= set(parts):
                return None
        self.forget(name)
        try:
            self._confirm(coming.name)
        except Exception as error:  # what is not confirmed stays in the SuperLink's store, no more
            if not temporary(error):
                raise
        return _put_together(name, coming)

    def _object(self, name: str) -> Any:
        request = message_pb2.PullObjectRequest(node=self._grid.node, run_id=self._grid.run.run_id, object_id=name)
        return self._grid._runtime_client.PullObject(request)

    def _confirm(self, name: str) -> None:
        run = self._grid.run.run_id
        request = message_pb2.ConfirmMessageReceivedRequest(node=self._grid.node, run_id=run, message_object_id=name)
        self._grid._runtime_client.ConfirmMessageReceived(request)


def _put_together(name: str, coming: _Coming) -> Message:
    """The reply; an error reply where its objects make none, or one to something else than was announced."""
    try:
        reply = inflatable_utils.inflate_object_from_contents(coming.name, dict(coming.here))
    except Exception as error:  # Flower's code takes a stranger's bytes for Flower's and raises what comes of it
        return _error(name, CLIENT_RAISED, f"the reply cannot be put together: {error!r}")
    if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != name:
        return _error(name, CLIENT_RAISED, "what came is not the reply that was announced")
    reply.metadata.__dict__["_message_id"] = coming.name
    return reply


def _error(name: str, code: int, reason: str) -> Message:
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=SERVER_NODE_ID,
        dst_node_id=SERVER_NODE_ID,
        reply_to_message_id=name,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type="system",
    )
    return make_message(metadata, error=Error(code, reason))
