"""The only place that touches what Flower does not promise to keep.

Written against flwr 1.41 and 1.42 (`SUPPORTED`); tests/federated/test_federated_compat.py holds the contract.
When a Flower release moves one of these names, this file changes and nothing else.
"""

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from edgessl.errors import FederationError, MissingDependencyError

LOWEST, BELOW = (1, 41), (1, 43)
SUPPORTED = ">=1.41,<1.43"


def check_version(found: str | None = None) -> None:
    """Raise unless the installed flwr, or the version given, is one that this module was written against."""
    if found is None:
        try:
            found = version("flwr")
        except PackageNotFoundError:
            raise MissingDependencyError("flwr is not installed; pip install 'edgessl[federated]' brings it") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if not numbers or not LOWEST <= (int(numbers[1]), int(numbers[2])) < BELOW:
        raise FederationError(f"flwr {found} is not supported; install 'flwr{SUPPORTED}'")


check_version()

from flwr.app import Message, RecordDict  # noqa: E402  (a wrong version should fail above, with words)
from flwr.common.constant import ErrorCode  # noqa: E402
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto  # noqa: E402
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

SERVER_NODE_ID = 1  # what the SuperLink calls itself
CLIENT_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
NODE_UNAVAILABLE = int(ErrorCode.NODE_UNAVAILABLE)
_message_ids = itertools.count(1)


def encode(content: RecordDict) -> bytes:
    """The records as Flower's protobuf bytes, the same bytes for the same records."""
    return bytes(recorddict_to_proto(content).SerializeToString(deterministic=True))


def decode(data: bytes) -> RecordDict:
    """Records that share nothing with the sender's."""
    return recorddict_from_proto(ProtoRecordDict.FromString(data))


def wire_bytes(content: RecordDict) -> int:
    """How many bytes `encode` would give.

    Not RecordDict.count_bytes, which in 1.41 fails on an empty list and does not count keys.
    """
    return int(recorddict_to_proto(content).ByteSize())


def stamp(message: Message) -> str:
    """Give a message the identifier that a SuperLink would give it; returned."""
    name = f"local-{next(_message_ids)}"
    message.metadata.__dict__["_message_id"] = name
    return name


def empty_run() -> Run:
    """A Run for a grid without a SuperLink."""
    return Run.create_empty(run_id=1)


@contextlib.contextmanager
def local_identity() -> Iterator[None]:
    """Message() reads who and which run it speaks for from a process-wide TaskIdentity: this sets it."""
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
