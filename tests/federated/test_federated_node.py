"""The lean node against a SuperLink in memory: what it answers, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from fake_node import THETA, Counting, told
from fake_superlink import NODE, message, records
from flwr.app import ConfigRecord, RecordDict

from edgessl.device import Learner
from edgessl.errors import ConfigError, FederationError
from federated import message as wire
from federated.client import train_round
from federated.compat import fleet
from federated.node import NodeSettings, message_bytes


def test_a_message_is_answered_confirmed_and_delivered(server, make):
    node = make()
    name = server.post(message(records(THETA, round=3)))
    node._turn()
    (reply,) = server.replies
    np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 1)
    assert reply.content["config"]["round"] == 3
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id, reply.metadata.dst_node_id) == (
        name,
        NODE,
        1,
    )
    assert server.confirmed == [name]
    assert [e["event"] for e in node.told] == ["joined", "answered", "delivered"]


def test_objects_that_are_not_there_yet_are_asked_for_again(server, make):
    node = make()
    server.post(message(records(THETA, round=1)))
    server.late = {next(iter(server.objects))}
    node._turn()
    assert len(server.replies) == 1


def test_a_message_whose_objects_never_come_does_not_hold_up_the_next(server, make, monkeypatch):
    monkeypatch.setattr("federated.node.inbox.PATIENCE", 0.1)
    node = make(answer := Counting())
    server.post(message(records(THETA, round=1)))
    withheld = next(iter(server.objects))
    monkeypatch.setattr(server, "late", type("Always", (set,), {"discard": lambda *_: None})({withheld}))
    node._turn()
    server.late = set()
    server.post(message(records(THETA, round=2)))
    node._turn()
    assert "did not come within 0.1 s" in server.replies[0].error.reason
    assert (answer.asked, server.replies[1].has_content()) == (1, True)


def test_a_message_that_comes_again_is_not_answered_again(server, make):
    node, answer = make(counting := Counting()), counting
    again = message(records(THETA, round=1))
    for _ in range(2):
        server.post(again)
        node._turn()
    assert (answer.asked, len(server.replies)) == (1, 1)
    assert told(node, "dropped")[0]["reason"] == "answered before"
    restarted = make(counting)  # the list is on the disk
    server.post(again)
    restarted._turn()
    assert (answer.asked, len(server.replies)) == (1, 1)


@pytest.mark.parametrize(
    ("outgoing", "reason"),
    [
        (message(records(THETA, round=1), kind="evaluate"), "'evaluate' messages are not answered here: train"),
        (message(records(THETA, round=1), kind="train.other"), "'train.other' messages are not answered"),
        (message(records(THETA, round=1), to=NODE + 1), f"a message for node {NODE + 1}"),
        (message(records(np.zeros(4000, np.float32), round=1)), "more than 8000 bytes"),
    ],
    ids=["another type", "a custom type", "another node", "too large"],
)
def test_what_is_not_allowed_gets_an_error_reply_and_is_never_answered(server, make, outgoing, reason):
    node = make(answer := Counting(), max_bytes=8000)
    server.post(outgoing)
    node._turn()
    (reply,) = server.replies
    assert reply.error.code == 2
    assert reason in reply.error.reason
    assert answer.asked == 0


def test_chunks_named_over_and_over_do_not_fill_the_memory():
    """A small message whose array names one chunk a hundred times: the sum of what it names counts."""
    parts = fleet.inflatable_object.get_all_nested_objects(message(records(np.zeros(2000, np.float32))))
    (array,) = (part for part in parts.values() if type(part).__name__ == "Array")
    (chunk,) = (part.deflate() for part in array.children.values())
    head, _, body = array.deflate().partition(b"\0")
    body = body.replace(b'"arraychunk_ids": [0]', b'"arraychunk_ids": [' + b", ".join([b"0"] * 100) + b"]")
    forged = b" ".join([*head.split(b" ")[:2], str(len(body)).encode()]) + b"\0" + body
    objects = {fleet.inflatable_object.get_object_id(part): part for part in (forged, chunk)}
    with pytest.raises(FederationError, match="bytes, at most 100000 are accepted"):
        fleet.assemble("0" * 64, objects, 100_000)


def test_a_byte_that_was_changed_on_the_way_is_noticed(server, make):
    node = make(answer := Counting())
    server.post(message(records(THETA, round=1)))
    name = next(n for n, content in server.objects.items() if content.startswith(b"ArrayChunk"))
    server.objects[name] = server.objects[name][:-1] + b"\x01"
    node._turn()
    assert "damaged: its SHA-256 is another" in server.replies[0].error.reason
    assert answer.asked == 0


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FederationError("weights of another model"), "FederationError: weights of another model"),
        (ZeroDivisionError("secret/path"), "ZeroDivisionError on the device; its log says more"),
    ],
)
def test_what_goes_wrong_is_an_error_reply_and_strange_errors_keep_their_text(server, make, failure, reason):
    node = make(Counting(failure))
    server.post(message(records(THETA, round=1)))
    node._turn()
    assert server.replies[0].error.reason == reason


@pytest.mark.parametrize(
    "given",
    [{"heartbeat": 5.0}, {"heartbeat": 2000.0}, {"poll": (0.0, 1.0)}, {"poll": (2.0, 1.0)}, {"poll": (1.0, 1e4)}],
)
def test_settings_a_superlink_would_refuse_are_refused(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        NodeSettings(**given)


def test_a_learner_joins_and_a_message_of_another_schema_changes_nothing(server, make, bundle, samples, tmp_path):
    with Learner.open(bundle, tmp_path / "state", memory_bytes=4096) as learner:
        learner.observe(samples(64))
        node = make(lambda found: train_round(found, learner, 2), max_bytes=message_bytes(bundle.manifest.theta_size))
        size = bundle.manifest.theta_size
        before = learner.theta
        for theta in (np.zeros(size + 1, np.float32), np.full(size, np.nan, np.float32), np.zeros(size, np.int64)):
            server.post(message(records(theta, **{wire.DIGEST: bundle.digest, wire.ROUND: 1})))
            node._turn()
        server.post(message(records(np.zeros(size, np.float32), **{wire.DIGEST: "0" * 64, wire.ROUND: 1})))
        node._turn()
        server.post(message(RecordDict({"config": ConfigRecord({wire.DIGEST: bundle.digest, wire.ROUND: 1})})))
        node._turn()
        assert all(reply.has_error() for reply in server.replies)
        assert len(server.replies) == 5
        np.testing.assert_array_equal(learner.theta, before)
        theta = bundle.state()["theta"]
        server.post(message(wire.pack(theta, bundle_digest=bundle.digest, round_number=1)))
        node._turn()
        assert server.replies[-1].has_content(), server.replies[-1]
        assert np.any(learner.theta != before)
