"""The contract with Flower's internals: when one of these fails after an upgrade, federated/compat.py changes."""

import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import federated
from edgessl.errors import FederationError
from federated import compat


def test_the_installed_flower_is_supported():
    compat.check_version()
    compat.check_version(version("flwr"))


@pytest.mark.parametrize("found", ["1.41.0", "1.42.3", "1.41"])
def test_versions_in_the_stated_range_are_accepted(found):
    compat.check_version(found)


@pytest.mark.parametrize("found", ["1.40.9", "1.43.0", "2.0.0", "0.9", "banana"])
def test_other_versions_are_refused_with_the_range(found):
    with pytest.raises(FederationError, match=r"not supported; install 'flwr>=1.41,<1.43'"):
        compat.check_version(found)


def test_message_needs_the_identity_and_it_is_put_back():
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    with compat.local_identity():
        message = Message(RecordDict(), 100, MessageType.TRAIN)
        assert message.metadata.src_node_id == compat.SERVER_NODE_ID
    assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == before


@pytest.mark.usefixtures("identity")
def test_stamped_messages_have_names_of_their_own_and_replies_carry_them():
    first, second = (Message(RecordDict(), 100, MessageType.TRAIN) for _ in range(2))
    assert compat.stamp(first) == first.metadata.message_id != compat.stamp(second)
    reply = Message(Error(compat.CLIENT_RAISED, "why"), reply_to=first)
    assert reply.metadata.reply_to_message_id == first.metadata.message_id


def test_error_codes_are_flowers():
    assert (compat.CLIENT_RAISED, compat.NODE_UNAVAILABLE) == (2, 5)


def test_records_survive_the_wire_and_share_nothing():
    theta = np.arange(5, dtype=np.float32)
    content = RecordDict(
        {
            "a": ArrayRecord({"theta": Array(theta)}),
            "m": MetricRecord({"n": 3, "x": 0.1}),
            "c": ConfigRecord({"s": "text", "empty": list[int]()}),  # count_bytes() of 1.41 fails on the latter
        }
    )
    data = compat.encode(content)
    back = compat.decode(data)
    np.testing.assert_array_equal(back["a"]["theta"].numpy(), theta)
    assert dict(back["m"]) == {"n": 3, "x": 0.1}
    assert back["c"]["s"] == "text"
    back["m"]["n"] = 4
    assert content["m"]["n"] == 3
    assert compat.wire_bytes(content) == len(data)


def test_quiet_holds_back_progress_and_restores():
    logger = logging.getLogger("flwr")
    before = logger.level
    with compat.quiet():
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
    assert logger.level == before


def test_empty_run_has_the_local_run_id():
    assert compat.empty_run().run_id == 1


def test_importing_federated_loads_no_flower_and_nothing_in_it_loads_torch():
    root = Path(federated.__file__).parent
    files = [p.relative_to(root.parent) for p in root.rglob("[a-z]*.py") if "app" not in p.parts]
    modules = [".".join(path.with_suffix("").parts) for path in files]
    assert {"federated.deployment.loopback", "federated.node.node"} <= set(modules)
    code = f"""
import sys, importlib, federated
assert "flwr" not in sys.modules, "flwr"
for name in {modules}: importlib.import_module(name)
assert all(hasattr(federated, name) for name in federated.__all__)
assert "flwr" in sys.modules
assert not {{"torch", "onnx", "ray"}} & set(sys.modules), "heavy import"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        federated.nonsense  # noqa: B018
