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
    from flwr.app import Message, RecordDict
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
    from flwr.supercore.run import Run

LOWEST, BELOW = (1, 41), (1, 43)
SUPPORTED = ">=1.41,<1.43"
SERVER_NODE_ID = 1  # what the SuperLink calls itself
CLIENT_RAISED = 2  # ErrorCode.CLIENT_APP_RAISED_EXCEPTION
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
    return bytes(_proto(content).SerializeToString(deterministic=True))


def decode(data: bytes) -> RecordDict:
    """Records that share nothing with the sender's."""
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

    return recorddict_from_proto(ProtoRecordDict.FromString(data))


def wire_bytes(content: RecordDict) -> int:
    """How many bytes `encode` would give.

    Not RecordDict.count_bytes, which in 1.41 fails on an empty list and does not count keys.
    """
    return int(_proto(content).ByteSize())


def _proto(content: RecordDict) -> ProtoRecordDict:
    """What Flower's recorddict_to_proto gives, built in place: that one copies an array's bytes five times over."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.common.serde import config_record_to_proto, metric_record_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

    proto = ProtoRecordDict()
    for key, record in content.items():
        item = proto.items.add(key=key)
        if isinstance(record, ArrayRecord):
            item.array_record.SetInParent()  # an empty record is there all the same
            for name, array in record.items():
                value = item.array_record.items.add(key=name).value
                value.dtype, value.stype, value.data = array.dtype, array.stype, array.data
                value.shape.extend(array.shape)
        elif isinstance(record, ConfigRecord):
            item.config_record.CopyFrom(config_record_to_proto(record))
        else:
            item.metric_record.CopyFrom(metric_record_to_proto(record))
    return proto


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
