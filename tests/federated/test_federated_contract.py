"""The contract with what Flower says on the wire, judged by Flower's own code.

EDGESSL_FLWR_PYTHON names the interpreter of an environment with another flwr: the same contract is then run there.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fake_superlink import NODE, message, records
from flwr.app import Error, Message
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL, HEARTBEAT_MIN_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto import control_pb2, fleet_pb2, message_pb2, run_pb2
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.routers.fleet.router import router as fleet_router
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated import compat
from federated.compat import control, fleet
from federated.deployment.proxy import CALLS

THETA = np.arange(5, dtype=np.float32)
OTHER_PYTHON = os.environ.get("EDGESSL_FLWR_PYTHON", "")


def test_error_numbers_and_bounds_are_flowers():
    assert compat.CLIENT_RAISED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert compat.NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE
    assert compat.LOST == (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
    assert compat.temporary(inflatable_utils.ObjectPushError("f" * 64, 1, "session"))
    assert not compat.temporary(inflatable_utils.ObjectPullError("f" * 64, "gone"))
    assert fleet.RUN_IS_OVER == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
    assert fleet.KEY_IN_USE == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE
    assert (fleet.SHORTEST_HEARTBEAT, fleet.LONGEST_HEARTBEAT) == (HEARTBEAT_MIN_INTERVAL, HEARTBEAT_MAX_INTERVAL)
    assert fleet.MEDIA_TYPE == PROTOBUF_MEDIA_TYPE
    assert fleet.error_code(json.dumps(FlowerError(2004, "secret").to_json("words")).encode()) == (2004, "words")


def test_flower_authenticates_the_headers():
    """The SuperLink's own check of a request, with nothing behind it but a table of keys."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = fleet.public_bytes(key.public_key())

    def request(body, headers):
        state = SimpleNamespace(protobuf_request=body)
        table = SimpleNamespace(get_node_id_by_public_key=lambda found: NODE if found == public else None)
        return SimpleNamespace(headers=headers, state=state, table=table)

    pull = fleet_pb2.PullMessagesRequest.FromString(fleet.pull(NODE).body)
    other = fleet_pb2.PullMessagesRequest.FromString(fleet.pull(NODE + 1).body)
    forged = ec.generate_private_key(ec.SECP384R1())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_auth, "get_linkstate", lambda request: request.table)
        node_auth.authenticate_node(request(pull, fleet.sign(key, public)))
        activate = fleet_pb2.ActivateNodeRequest.FromString(fleet.activate(public, 30.0).body)
        node_auth.authenticate_node(request(activate, fleet.sign(key, public)))
        for body, headers in ((other, fleet.sign(key, public)), (pull, fleet.sign(forged, public))):
            with pytest.raises(Exception, match="401"):
                node_auth.authenticate_node(request(body, headers))


def test_the_superlink_has_every_call_that_is_made_and_the_proxy_passes_them_on():
    paths = {route.path for route in fleet_router.routes}
    made = [
        fleet.register(b""),
        fleet.activate(b"", 30.0),
        fleet.deactivate(1),
        fleet.beat(1, 30.0),
        fleet.pull(1),
        fleet.pull_object(1, 1, ""),
        fleet.confirm(1, 1, ""),
        fleet.push(1, fleet.Packed(1, "", 0.0, b"", b"", {}), 0.0),
        fleet.push_object(1, 1, "", "", b""),
    ]
    assert {call.path for call in made} <= paths
    assert {call.path for call in made[1:]} <= {fleet.PREFIX + name for name in CALLS}
    assert {fleet.PREFIX + name for name in CALLS} <= paths


def test_a_message_is_put_together_as_flower_does_it():
    outgoing = message(records(THETA, round=3))
    nested = inflatable_object.get_all_nested_objects(outgoing)
    objects = {name: part.deflate() for name, part in nested.items()}
    found = fleet.assemble(outgoing.object_id, objects, 1 << 20)
    np.testing.assert_array_equal(found.content["arrays"]["theta"].numpy(), THETA)
    assert found.metadata.message_id == outgoing.object_id
    assert len(objects) <= fleet.MAX_OBJECTS


KINDS = ["Message", "RecordDict", "ArrayRecord", "Array", "ArrayChunk", "ConfigRecord", "MetricRecord", "Nonsense", ""]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 6), max_size=3), st.binary(max_size=60)), max_size=6
    )
)
@example([("RecordDict", [], b"0")])  # JSON, but no object
def test_whatever_a_server_sends_is_a_message_or_an_error_that_says_so(parts):
    """Objects of any kind with any children and body, correctly named."""
    names, objects = list[str](), dict[str, bytes]()
    for kind, children, body in parts:
        ids = ",".join(names[i % len(names)] for i in children) if names else ""
        content = f"{kind} {ids} {len(body)}".encode() + b"\0" + body
        names.append(inflatable_object.get_object_id(content))
        objects[names[-1]] = content
    with contextlib.suppress(FederationError):
        assert isinstance(fleet.assemble(names[-1] if names else "", objects, 1 << 20), Message)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_message_is_a_message_or_an_error_that_says_so(data):
    """A real one with bytes of its inner objects changed, every name above put right."""
    outgoing = message(records(THETA, round=3))
    renamed, objects = dict[bytes, bytes](), dict[str, bytes]()
    for name, part in inflatable_object.get_all_nested_objects(outgoing).items():  # children first
        content = part.deflate()
        for old, new in renamed.items():
            content = content.replace(old, new)
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(content) - 1))
            content = content[:at] + data.draw(st.binary(max_size=4)) + content[at + 1 :]
        own = inflatable_object.get_object_id(content)
        renamed[name.encode()], objects[own] = own.encode(), content
    with contextlib.suppress(FederationError):
        assert fleet.assemble(own, objects, 1 << 20).has_content()


@pytest.mark.parametrize("fails", [False, True], ids=["content", "error"])
def test_a_reply_is_packed_as_flower_unpacks_it(fails):
    outgoing = message(records(THETA, round=3))
    outgoing.metadata.__dict__["_message_id"] = outgoing.object_id
    reply = Message(Error(2, "why") if fails else records(THETA + 1), reply_to=outgoing)
    packed = fleet.pack_reply(reply)
    head = message_from_proto(message_pb2.Message.FromString(packed.message))
    tree = message_pb2.ObjectTree.FromString(packed.tree)
    assert head.metadata.message_id == tree.object_id
    assert head.metadata.reply_to_message_id == packed.reply_to == outgoing.object_id
    assert {node.object_id for node in inflatable_object.iterate_object_tree(tree)} == set(packed.objects)
    for content in packed.objects.values():
        inflatable_utils.validate_object_content(content)
    back = inflatable_utils.inflate_object_from_contents(tree.object_id, dict(packed.objects))
    assert isinstance(back, Message)
    assert back.has_error() == fails
    if fails:
        assert (back.error.code, back.error.reason) == (2, "why")
    else:
        np.testing.assert_array_equal(back.content["arrays"]["theta"].numpy(), THETA + 1)
    assert 0 < packed.expires - outgoing.metadata.created_at <= outgoing.metadata.ttl


def test_a_runs_status_is_read():
    run = run_pb2.Run(run_id=5, bytes_sent=1, bytes_recv=2, clientapp_runtime=0.5)
    run.status.status, run.status.sub_status, run.status.details = "finished", "failed", "out of milk"
    answer = control_pb2.ListRunsResponse()
    answer.run_dict[5].CopyFrom(run)
    data = answer.SerializeToString()
    assert control.run_status(5).read(data) == control.RunStatus("finished:failed", "out of milk", 1, 2, 0.5)
    assert control.run_status(6).read(data) is None


def test_the_node_loads_the_message_classes_and_nothing_else_of_flower():
    code = """
import sys
from federated.compat.lean import use_lean_flower
assert use_lean_flower() and use_lean_flower()
import federated.node.device
from federated.node import Node, Identity
heavy = {"grpc", "httpx", "typer", "rich", "asyncio", "torch", "onnx", "fastapi", "sqlalchemy"} & set(sys.modules)
assert not heavy, heavy
assert not [m for m in sys.modules if m.startswith(("flwr.server", "flwr.client", "flwr.simulation"))]
from flwr.app import Array, ArrayRecord, Message, RecordDict
assert Message.__module__.startswith("flwr.app")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import flwr.app; from federated.compat.lean import use_lean_flower; assert not use_lean_flower()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not OTHER_PYTHON, reason="EDGESSL_FLWR_PYTHON names no interpreter with another flwr")
def test_another_flower_keeps_the_contract_too():
    here = Path(__file__).parent
    files = [__file__, str(here / "test_federated_compat.py"), *map(str, here.glob("test_federated_node*.py"))]
    env = {name: value for name, value in os.environ.items() if name != "EDGESSL_FLWR_PYTHON"}
    done = subprocess.run(
        [OTHER_PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=here.parent.parent,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    asked = "import importlib.metadata as m; print(m.version('flwr'))"
    print(subprocess.run([OTHER_PYTHON, "-c", asked], capture_output=True, text=True, check=True).stdout)
