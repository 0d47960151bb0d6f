"""A SuperLink's side of the fleet API in memory, behind `Link`'s interface: what it was told and what it handed out."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils

from federated.compat.fleet import PREFIX, RUN_IS_OVER, Call
from federated.node.link import LinkError, RefusedError

NODE, RUN = 42, 7


def message(content: RecordDict, kind: str = "train", to: int = NODE, ttl: float = 600.0, age: float = 0.0) -> Message:
    """A message as a ServerApp sends it."""
    metadata = Metadata(
        run_id=RUN,
        message_id="",
        src_node_id=1,
        dst_node_id=to,
        reply_to_message_id="",
        group_id="",
        created_at=time.time() - age,
        ttl=ttl,
        message_type=kind,
    )
    return make_message(metadata, content=content)


class FakeSuperLink:
    """One run, one device. `away` makes every call a LinkError; `over` ends the run; `late` withholds objects once.

    As the real one it hands out a message once, takes each object once in a session, and takes no second announcement
    of a reply that its ServerApp has `taken`.
    """

    server, tls, timeout, identity = "test:1", object(), 1.0, SimpleNamespace(public_key=b"public")

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.objects: dict[str, bytes] = {}
        self.replies: list[Message] = []
        self.calls: list[str] = []
        self.confirmed: list[str] = []
        self.away = self.over = self.unknown = self.online = self.taken = False
        self.late: set[str] = set()
        self.refuse: dict[str, RefusedError] = {}
        self.lose_after: str | None = None  # the link is cut right after this call was made
        self.lose: list[bool] = []  # for each of the next calls: whether its answer is lost
        self.received: dict[str, bytes] = {}  # objects of replies
        self._incoming: dict[str, tuple[message_pb2.ObjectTree, set[str]]] = {}  # by session, and what it still wants
        self._announced: set[str] = set()

    def post(self, outgoing: Message) -> str:
        """Queue a message; returns its name."""
        self.waiting.append(outgoing)
        for name, part in inflatable_object.get_all_nested_objects(outgoing).items():
            self.objects[name] = part.deflate()
        return outgoing.object_id

    def call(self, call: Call[Any], answer_bytes: int = 1 << 18) -> Any:
        """Answer as a SuperLink does."""
        if self.away:
            raise LinkError("the cable is cut")
        path = call.path.removeprefix(PREFIX)
        self.calls.append(path)
        if path in self.refuse:
            raise self.refuse[path]
        answer = getattr(self, "_" + path.replace("-", "_"))(call.body).SerializeToString()
        if self.lose_after == path or (self.lose and self.lose.pop(0)):
            self.away, self.lose_after = self.lose_after == path, None
            raise LinkError("the connection was cut before the answer was whole")
        assert len(answer) <= answer_bytes
        return call.read(answer)

    def close(self) -> None:
        """Nothing to close."""

    def _check_run(self) -> None:
        if self.over:
            raise RefusedError("the run is over", 403, RUN_IS_OVER)

    def _register_node(self, body: bytes) -> Any:
        return fleet_pb2.RegisterNodeFleetResponse(node_id=NODE)

    def _activate_node(self, body: bytes) -> Any:
        if self.online:  # as Flower does: only a heartbeat brings back a node that did not say goodbye
            raise RefusedError("Failed to activate SuperNode.", 412, 2004)
        self.online = True
        return fleet_pb2.ActivateNodeResponse(node_id=NODE)

    def _deactivate_node(self, body: bytes) -> Any:
        self.online = False
        return fleet_pb2.DeactivateNodeResponse()

    def _send_node_heartbeat(self, body: bytes) -> Any:
        self.online = not self.unknown
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=not self.unknown)

    def _pull_messages(self, body: bytes) -> Any:
        if not self.waiting:
            return fleet_pb2.PullMessagesResponse()
        first = self.waiting.pop(0)
        metadata = metadata_to_proto(first.metadata)
        metadata.message_id = first.object_id
        head = message_pb2.Message(metadata=metadata)
        return fleet_pb2.PullMessagesResponse(
            messages_list=[head], message_object_trees=[inflatable_object.get_object_tree(first)]
        )

    def _pull_object(self, body: bytes) -> Any:
        self._check_run()
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        if name in self.late:
            self.late.discard(name)
            return message_pb2.PullObjectResponse(object_found=True, object_available=False)
        content = self.objects.get(name)
        if content is None:
            return message_pb2.PullObjectResponse(object_found=False)
        return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def _confirm_message_received(self, body: bytes) -> Any:
        self.confirmed.append(message_pb2.ConfirmMessageReceivedRequest.FromString(body).message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()

    def _push_messages(self, body: bytes) -> Any:
        self._check_run()
        request = fleet_pb2.PushMessagesRequest.FromString(body)
        tree = request.message_object_trees[0]
        names = {node.object_id for node in inflatable_object.iterate_object_tree(tree)}
        there = {name for name in names if name in self.received}
        if self.taken and tree.object_id in self._announced:
            return fleet_pb2.PushMessagesResponse(session_id="")
        self._announced.add(tree.object_id)
        session = f"s{len(self._incoming)}"
        self._incoming[session] = (tree, names - there)
        return fleet_pb2.PushMessagesResponse(objects_to_push=names - there, session_id=session)

    def _push_object(self, body: bytes) -> Any:
        self._check_run()
        request = message_pb2.PushObjectRequest.FromString(body)
        tree, pending = self._incoming.get(request.session_id, (None, set()))
        if tree is None or request.object_id not in pending:
            return message_pb2.PushObjectResponse(stored=False)
        assert inflatable_object.get_object_id(request.object_content) == request.object_id
        pending.discard(request.object_id)
        self.received[request.object_id] = request.object_content
        if not pending:
            reply = inflatable_utils.inflate_object_from_contents(tree.object_id, dict(self.received))
            assert isinstance(reply, Message)
            self.replies.append(reply)
        return message_pb2.PushObjectResponse(stored=True)


def records(theta: Any, **config: Any) -> RecordDict:
    """Content of one array and one configuration."""
    return RecordDict({"arrays": ArrayRecord({"theta": Array(theta)}), "config": ConfigRecord(config)})
