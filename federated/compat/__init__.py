"""The only place that touches what Flower does not promise to keep.

Written against flwr 1.41 and 1.42 (`SUPPORTED`); tests/federated/test_federated_compat.py holds the contract.
When a Flower release moves one of these names, this package changes and nothing else: what apps and grids need
is here, what a device says over the wire is in `fleet`, and `lean` lets a device do without the rest of Flower.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from edgessl.errors import FederationError, MissingDependencyError

if TYPE_CHECKING:
    from flwr.app import Array, Message, RecordDict
    from flwr.supercore.run import Run

LOWEST, BELOW = (1, 41), (1, 43)
SUPPORTED = ">=1.41,<1.43"
SERVER_NODE_ID = 1  # what the SuperLink calls itself
CLIENT_RAISED = 2  # ErrorCode.CLIENT_APP_RAISED_EXCEPTION
LOST = (3, 4)  # ErrorCode.MESSAGE_UNAVAILABLE and REPLY_MESSAGE_UNAVAILABLE
NODE_UNAVAILABLE = 5  # ErrorCode.NODE_UNAVAILABLE
_message_ids = itertools.count(1)


def check_version(found: str | None = None) -> None:
    """Raise unless the installed flwr, or the version given, is one that this package was written against."""
    if found is None:
        try:
            found = version("flwr")
        except PackageNotFoundError:
            raise MissingDependencyError("flwr is not installed; pip install 'edgessl[federated]' brings it") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if not numbers or not LOWEST <= (int(numbers[1]), int(numbers[2])) < BELOW:
        raise FederationError(f"flwr {found} is not supported; install 'flwr{SUPPORTED}'")


check_version()


def encode(content: RecordDict) -> bytes:
    """The records as Flower's protobuf bytes, the same bytes for the same records."""
    return b"".join(_pieces(content))


def decode(data: bytes) -> RecordDict:
    """Records that share nothing with the sender's."""
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

    return recorddict_from_proto(ProtoRecordDict.FromString(data))


def wire_bytes(content: RecordDict) -> int:
    """How many bytes `encode` would give.

    Not RecordDict.count_bytes, which in 1.41 fails on an empty list and does not count keys.
    """
    return sum(map(len, _pieces(content)))


def _pieces(content: RecordDict) -> list[bytes]:
    """The bytes of Flower's recorddict_to_proto, which on its way copies those of an array seven times over."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.common.serde import config_record_to_proto, metric_record_to_proto

    pieces = list[bytes]()
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            items = (
                _field(
                    1, *_text(1, name), *_field(2, *_text(1, a.dtype), *_shape(a.shape), *_text(3, a.stype), *_data(a))
                )
                for name, a in record.items()
            )
            value = _field(_ARRAYS, *itertools.chain.from_iterable(items))
        elif isinstance(record, ConfigRecord):
            value = _field(_CONFIG, config_record_to_proto(record).SerializeToString(deterministic=True))
        else:
            value = _field(_METRICS, metric_record_to_proto(record).SerializeToString(deterministic=True))
        pieces += _field(1, *_text(1, key), *value)
    return pieces


_ARRAYS, _METRICS, _CONFIG = 2, 3, 4  # fields of RecordDict.Item


def _field(number: int, *pieces: bytes) -> tuple[bytes, ...]:
    """A length-delimited field."""
    return bytes((number << 3 | 2,)) + _varint(sum(map(len, pieces))), *pieces


def _text(number: int, text: str) -> tuple[bytes, ...]:
    return _field(number, text.encode()) if text else ()  # proto3 leaves out what is empty


def _shape(shape: tuple[int, ...]) -> tuple[bytes, ...]:
    return _field(2, *map(_varint, shape)) if shape else ()


def _data(array: Array) -> tuple[bytes, ...]:
    return _field(4, array.data) if array.data else ()


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes((*groups, number))


def stamp(message: Message) -> str:
    """Give a message the identifier that a SuperLink would give it; returned."""
    name = f"local-{next(_message_ids)}"
    message.metadata.__dict__["_message_id"] = name
    return name


def empty_run() -> Run:
    """A Run for a grid without a SuperLink."""
    from flwr.supercore.run import Run

    return Run.create_empty(run_id=1)


@contextlib.contextmanager
def local_identity() -> Iterator[None]:
    """Message() reads who and which run it speaks for from a process-wide TaskIdentity: this sets it."""
    from flwr.supercore.task_identity import TaskIdentity

    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SERVER_NODE_ID
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def temporary(error: Exception) -> bool:
    """Whether a grid raised it because its SuperLink failed for the moment: its database was locked, above all."""
    import httpx
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, ObjectPushError)  # it could not be stored


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Flower's progress lines held back; its warnings stay."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
