"""What a device and a SuperLink say to each other: Flower's Fleet API, protobuf over HTTP POST.

Every call is a `Call`: a path, the bytes to post and how to read the answer; who posts them is `federated.node.link`.
A message is announced as a tree of content-addressed objects ("Type children length" NUL body, named by their
SHA-256), which are pulled and pushed one by one.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde_utils import error_to_proto, metadata_from_proto, metadata_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgessl.errors import FederationError

PREFIX = "/v1/fleet/"
MEDIA_TYPE = "application/protobuf"
SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT = 10.0, 1800.0
RUN_IS_OVER = 2007  # ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
KEY_IN_USE = 23  # ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE
MAX_OBJECTS = 32  # one flat array makes six
_KINDS = {"Message", "RecordDict", "ArrayRecord", "Array", "ArrayChunk", "ConfigRecord", "MetricRecord"}

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: the `path`, the protobuf `body`, and `read`, which makes the answer's bytes a value."""

    path: str
    body: bytes
    read: Callable[[bytes], T]


@dataclass(frozen=True)
class Announced:
    """A message that waits for this device; `objects` are the names of its parts, its own name last."""

    metadata: Any
    objects: tuple[str, ...]

    @property
    def name(self) -> str:
        """The SHA-256 of the message object, by which a reply names what it replies to."""
        return self.objects[-1]

    @property
    def run_id(self) -> int:
        """The run that the message belongs to."""
        return int(self.metadata.run_id)

    @property
    def expires(self) -> float:
        """Seconds since the epoch after which nobody waits for the reply."""
        return float(self.metadata.created_at + self.metadata.ttl)


@dataclass(frozen=True)
class Packed:
    """A reply as it is pushed: the message without content, its tree, its objects by name."""

    run_id: int
    reply_to: str
    expires: float
    message: bytes
    tree: bytes
    objects: dict[str, bytes] = field(repr=False)


def sign(key: ec.EllipticCurvePrivateKey, public_key: bytes) -> dict[str, str]:
    """The headers that say who posts: a signature over the time, which the SuperLink accepts for five minutes."""
    timestamp = datetime.now(UTC).isoformat()
    signature = key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return {
        "content-type": MEDIA_TYPE,
        "accept": MEDIA_TYPE,
        "flwr-package-name": "flwr",
        "flwr-package-version": version("flwr"),
        "flwr-component-name": "SuperNode",
        "flwr-public-key": base64.b64encode(public_key).decode("ascii"),
        "flwr-timestamp": timestamp,
        "flwr-signature": base64.b64encode(signature).decode("ascii"),
    }


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as the SuperLink knows it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def error_code(body: bytes) -> tuple[int, str]:
    """Flower's number for an error, 0 if it has none, and its words."""
    try:
        found = json.loads(body)
        code, words = found.get("code", 0), found.get("detail")
        return (code if isinstance(code, int) else 0), str(words)[:500]
    except (ValueError, AttributeError):
        return 0, "" if body.lstrip().startswith(b"<") else body[:200].decode(errors="replace")  # a proxy's page


def register(public_key: bytes) -> Call[int]:
    """Introduce oneself to a SuperLink that does not ask for registered keys; the node's number."""
    request = fleet_pb2.RegisterNodeFleetRequest(public_key=public_key)
    return call(
        PREFIX + "register-node", request, fleet_pb2.RegisterNodeFleetResponse, lambda answer: int(answer.node_id)
    )


def activate(public_key: bytes, heartbeat: float) -> Call[int]:
    """Say that this device is there and will say so again every `heartbeat` seconds; the node's number."""
    request = fleet_pb2.ActivateNodeRequest(public_key=public_key, heartbeat_interval=heartbeat)
    return call(PREFIX + "activate-node", request, fleet_pb2.ActivateNodeResponse, lambda answer: int(answer.node_id))


def deactivate(node: int) -> Call[None]:
    """Say that this device leaves, so that nobody waits for it."""
    request = fleet_pb2.DeactivateNodeRequest(node_id=node)
    return call(PREFIX + "deactivate-node", request, fleet_pb2.DeactivateNodeResponse, lambda answer: None)


def beat(node: int, heartbeat: float) -> Call[bool]:
    """The heartbeat; False when the SuperLink does not know this node."""
    request = heartbeat_pb2.SendNodeHeartbeatRequest(node=_node(node), heartbeat_interval=heartbeat)
    answer = heartbeat_pb2.SendNodeHeartbeatResponse
    return call(PREFIX + "send-node-heartbeat", request, answer, lambda answer: bool(answer.success))


def pull(node: int) -> Call[Announced | None]:
    """Ask for a message; None when there is none. FederationError for a tree that no message has."""

    def read(answer: Any) -> Announced | None:
        if not answer.messages_list:
            return None
        trees = answer.message_object_trees
        if len(answer.messages_list) != 1 or len(trees) != 1:
            raise FederationError(f"{len(answer.messages_list)} messages with {len(trees)} trees; expected one of each")
        metadata = metadata_from_proto(answer.messages_list[0].metadata)
        return Announced(metadata, tuple(_names(trees[0])))

    request = fleet_pb2.PullMessagesRequest(node=_node(node))
    return call(PREFIX + "pull-messages", request, fleet_pb2.PullMessagesResponse, read)


def pull_object(node: int, run_id: int, name: str) -> Call[bytes | None]:
    """An object; None while the SuperLink does not have it yet. FederationError when it never will."""

    def read(answer: Any) -> bytes | None:
        if not answer.object_found:
            raise FederationError(f"object {name[:12]} of a message is gone from the SuperLink")
        return bytes(answer.object_content) if answer.object_available else None

    request = message_pb2.PullObjectRequest(node=_node(node), run_id=run_id, object_id=name)
    return call(PREFIX + "pull-object", request, message_pb2.PullObjectResponse, read)


def confirm(node: int, run_id: int, name: str) -> Call[None]:
    """Say that a message is here: the SuperLink forgets its objects."""
    request = message_pb2.ConfirmMessageReceivedRequest(node=_node(node), run_id=run_id, message_object_id=name)
    answer = message_pb2.ConfirmMessageReceivedResponse
    return call(PREFIX + "confirm-message-received", request, answer, lambda answer: None)


def push(node: int, reply: Packed, seconds: float) -> Call[tuple[set[str], str]]:
    """Announce a reply that took `seconds` to make; the objects that are wanted, and in which session."""
    request = fleet_pb2.PushMessagesRequest(
        node=_node(node),
        messages_list=[message_pb2.Message.FromString(reply.message)],
        message_object_trees=[message_pb2.ObjectTree.FromString(reply.tree)],
        clientapp_runtime_list=[seconds],
    )

    def read(answer: Any) -> tuple[set[str], str]:
        return set(answer.objects_to_push), str(answer.session_id)

    return call(PREFIX + "push-messages", request, fleet_pb2.PushMessagesResponse, read)


def push_object(node: int, run_id: int, session: str, name: str, content: bytes) -> Call[bool]:
    """Hand over an object; False when the session is over and the reply must be announced again."""
    request = message_pb2.PushObjectRequest(
        node=_node(node), run_id=run_id, object_id=name, object_content=content, session_id=session
    )
    return call(PREFIX + "push-object", request, message_pb2.PushObjectResponse, lambda answer: bool(answer.stored))


def assemble(name: str, objects: Mapping[str, bytes], max_bytes: int) -> Message:
    """The message with that name from its objects; FederationError when a byte of it is not what its name says.

    `max_bytes` bounds what the arrays take once put together (a chunk may be named more than once).
    """
    size = 0
    for own, content in objects.items():
        if inflatable_object.get_object_id(content) != own:
            raise FederationError(f"object {own[:12]} of a message is damaged: its SHA-256 is another")
        size += _size(content, objects)
    if size > max_bytes:
        raise FederationError(f"a message of {size} bytes, at most {max_bytes} are accepted here")
    try:
        message = inflatable_utils.inflate_object_from_contents(name, dict(objects))
    except Exception as error:  # Flower's code takes strangers' bytes for Flower's and raises what comes of it
        raise FederationError(f"message {name[:12]} cannot be put together: {error!r}") from None
    if not isinstance(message, Message) or not message.has_content():
        raise FederationError(f"message {name[:12]} carries no content")
    message.metadata.__dict__["_message_id"] = name
    return message


def stub(announced: Announced) -> Message:
    """A message without its content, to reply to with an error."""
    message = make_message(announced.metadata, content=RecordDict())
    message.metadata.__dict__["_message_id"] = announced.name
    return message


def pack_reply(reply: Message) -> Packed:
    """A reply to an assembled message, ready to be kept and pushed."""
    metadata = reply.metadata
    with inflatable_object.no_object_id_recompute():
        metadata.__dict__["_message_id"] = reply.object_id
        tree = inflatable_object.get_object_tree(reply)
        nested = inflatable_object.get_all_nested_objects(reply)
        objects = {name: part.deflate() for name, part in nested.items()}
    head = message_pb2.Message(
        metadata=metadata_to_proto(metadata),
        content=None if reply.has_error() else recorddict_pb2.RecordDict(),
        error=error_to_proto(reply.error) if reply.has_error() else None,
    )
    expires = metadata.created_at + metadata.ttl
    return Packed(
        metadata.run_id,
        metadata.reply_to_message_id,
        expires,
        head.SerializeToString(),
        tree.SerializeToString(),
        objects,
    )


def pack_again(reply: Packed, announced: Announced) -> Packed:
    """An earlier reply as the answer to another message."""
    root = message_pb2.ObjectTree.FromString(reply.tree).object_id
    said = inflatable_utils.inflate_object_from_contents(root, dict(reply.objects))
    assert isinstance(said, Message)
    return pack_reply(Message(said.error if said.has_error() else said.content, reply_to=stub(announced)))


def _size(content: bytes, objects: Mapping[str, bytes]) -> int:
    """The bytes that an object takes once inflated; FederationError for a type that no message of ours has."""
    head, divider, body = content.partition(b"\x00")
    fields = head.decode(errors="replace").split(" ")
    if not divider or len(fields) != 3 or fields[0] not in _KINDS:
        raise FederationError(f"an object of a message is of an unknown type: {head[:40]!r}")
    if fields[0] != "Array":
        return len(content)
    try:
        children, order = fields[1].split(","), json.loads(body)["arraychunk_ids"]
        return len(content) + sum(len(objects[children[i]]) for i in order)
    except (ValueError, KeyError, TypeError, IndexError):
        raise FederationError("an array of a message names chunks that are not there") from None


def _names(tree: Any) -> Iterable[str]:
    names = dict.fromkeys(str(node.object_id) for node in inflatable_object.iterate_object_tree(tree))
    if len(names) > MAX_OBJECTS or not all(inflatable_object.is_valid_sha256_hash(name) for name in names):
        raise FederationError(
            f"a message of {len(names)} objects; at most {MAX_OBJECTS}, named by SHA-256, are accepted"
        )
    return names


def _node(number: int) -> node_pb2.Node:
    return node_pb2.Node(node_id=number)


def call(path: str, request: Any, answer: Any, value: Callable[[Any], T]) -> Call[T]:
    """The Call that posts a protobuf `request` and makes `value` of the protobuf message `answer` that comes back."""

    def read(data: bytes) -> T:
        try:
            found = answer.FromString(data)
        except DecodeError:
            raise FederationError(f"{path}: {len(data)} bytes that are no answer of a SuperLink") from None
        return value(found)

    return Call(path, request.SerializeToString(), read)
