"""Both ends speaking in differences: devices that come and go, restarts, rollbacks, and what each costs in bytes."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, MessageType

from edgessl.errors import FederationError, StateLockedError
from federated import compat
from federated import message as wire
from federated.codecs import decode, parse_codec
from federated.codecs.downlink import Downlink
from federated.codecs.link import DeviceLink

DIGEST, SIZE = "ef" * 32, 2000


def walk(steps, seed=0):
    """Weights that move a little each time, (steps, SIZE)."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((steps, SIZE)) * 0.01, axis=0).astype(np.float32)


def message_to(node, theta, number):
    config = {wire.VERSION: wire.version_of(theta)}
    content = wire.pack(theta, bundle_digest=DIGEST, round_number=number, config=config)
    return Message(content, node, MessageType.TRAIN)


class Device:
    """One that keeps its link in a directory and loses everything else between rounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, content) -> np.ndarray:
        link = DeviceLink(self.folder, DIGEST)
        try:
            received = compat.decode(compat.encode(content))
            update = wire.unpack(received, bundle_digest=DIGEST, size=SIZE, references=link.references)
            link.received(update.theta, update.text(wire.VERSION), "run", update.round)
            link.save()
            return update.theta
        finally:
            link.close()


@pytest.mark.parametrize("name", ["delta", "int8", "topk:0.1+int8", "randomk:0.2"])
def test_devices_that_miss_rounds_have_the_same_weights_bit_for_bit(tmp_path, identity, name):
    downlink = Downlink(parse_codec(name))
    devices = {node: Device(tmp_path / str(node)) for node in (100, 101, 102)}
    present = {100: lambda r: True, 101: lambda r: r % 3 == 0, 102: lambda r: r == 7}
    published = walk(1)[0]
    whole, sent = wire.pack(published, bundle_digest=DIGEST, round_number=1), {node: [] for node in devices}
    for number, theta in enumerate(walk(12)):
        published = downlink.publish(theta, published)
        asked = [node for node in devices if present[node](number)]
        messages = [message_to(node, published, number) for node in asked]
        downlink.address(messages)
        for node, message in zip(asked, messages, strict=True):
            np.testing.assert_array_equal(devices[node].take(message.content), published)
            downlink.holds(node, wire.version_of(published))
            sent[node].append(compat.wire_bytes(message.content) / compat.wire_bytes(whole))
    if name == "delta":
        np.testing.assert_array_equal(published, theta)
    assert sent[102][0] > 1  # never seen before: whole
    assert sent[100][0] > 1
    assert max(sent[100][1:]) < (0.95 if name == "delta" else 0.35)
    if name == "topk:0.1+int8":
        assert max(sent[101][1:]) < 0.3  # three differences in a row


def test_what_the_downlink_loses_comes_later():
    downlink = Downlink(parse_codec("topk:0.2+int8"))
    published, target = np.zeros(SIZE, np.float32), walk(1)[0]
    for number in range(40):  # one step, then the strategy stands still
        published = downlink.publish(target if number == 0 else published, published)
    np.testing.assert_allclose(published, target, atol=1e-4)


def test_nodes_with_the_same_version_share_one_content(identity):
    downlink = Downlink(parse_codec("int8"))
    first, second = walk(2)
    second = downlink.publish(second, first)
    for node in range(5):
        downlink.holds(node, wire.version_of(first))
    downlink.holds(4, None)
    downlink.holds(3, "of another run")
    downlink.holds(2, wire.version_of(second))
    shared = message_to(0, second, 2).content
    messages = [Message(shared, node, MessageType.TRAIN) for node in range(5)]
    downlink.address(messages)
    names = [list(message.content["arrays"]) for message in messages]
    assert names == [["payload"], ["payload"], ["payload"], ["theta"], ["theta"]]
    assert messages[0].content is messages[1].content
    assert messages[2].content["arrays"]["payload"].shape == (44,)  # has it already


def test_a_new_device_has_its_bundles_weights_already(identity):
    factory, *later = walk(4)
    downlink = Downlink(parse_codec("topk:0.1"), wire.version_of(factory))
    downlink.holds(1, None)  # it failed: who knows what it has
    messages = [message_to(node, factory, 1) for node in (0, 1)]
    downlink.address(messages)
    assert [list(message.content["arrays"]) for message in messages] == [["payload"], ["theta"]]
    assert messages[0].content["arrays"]["payload"].shape == (44,)
    published = factory
    for theta in later:
        published = downlink.publish(theta, published)
    late = message_to(2, published, 4)
    downlink.address([late])
    assert compat.wire_bytes(late.content) < 0.5 * 4 * SIZE
    update = wire.unpack(late.content, bundle_digest=DIGEST, size=SIZE, references={wire.version_of(factory): factory})
    np.testing.assert_array_equal(update.theta, published)


def test_after_a_resume_devices_get_the_weights_whole_and_nothing_owed_is_lost(identity):
    one, two = Downlink(parse_codec("topk:0.1")), Downlink(parse_codec("topk:0.1"))
    thetas = walk(5)
    first = one.publish(thetas[1], thetas[0])
    second = one.publish(thetas[2], first)
    two.load_state(one.state())
    third = two.publish(thetas[3], second)
    np.testing.assert_array_equal(third, one.publish(thetas[3], second))
    for node, version in enumerate((first, second, third)):
        two.holds(node, wire.version_of(version))
    messages = [message_to(node, third, 3) for node in range(3)]
    two.address(messages)
    assert [list(message.content["arrays"]) for message in messages] == [["theta"], ["payload"], ["payload"]]


def test_after_a_rollback_no_difference_leads_to_what_was_refused(identity):
    downlink, thetas = Downlink(parse_codec("topk:0.1")), walk(4)
    first = downlink.publish(thetas[1], thetas[0])
    before = downlink.state()
    downlink.publish(thetas[2], first)  # refused: the fleet stays with the first
    downlink.load_state(before)
    downlink.holds(0, wire.version_of(thetas[0]))
    message = message_to(0, first, 3)
    downlink.address([message])
    assert list(message.content["arrays"]) == ["theta"]
    third = downlink.publish(thetas[3], first)
    downlink.holds(0, wire.version_of(first))
    message = message_to(0, third, 4)
    downlink.address([message])
    update = wire.unpack(message.content, bundle_digest=DIGEST, size=SIZE, references={wire.version_of(first): first})
    np.testing.assert_array_equal(update.theta, third)


def test_a_link_survives_a_restart_and_forgets_what_was_not_saved(tmp_path):
    codec, thetas = parse_codec("topk:0.1"), walk(3)
    link = DeviceLink(tmp_path, DIGEST)
    with pytest.raises(StateLockedError):
        DeviceLink(tmp_path, DIGEST)
    with pytest.raises(FederationError, match="no weights of the fleet"):
        link.encode(thetas[0], codec)
    link.received(thetas[0], "v0", "run", 1)
    link.encode(thetas[1], codec)
    owed = link.residual_norm
    assert owed > 0
    link.save()
    link.encode(thetas[2], codec)  # the reply to this one was never made
    assert link.residual_norm != owed
    link.close()
    again = DeviceLink(tmp_path, DIGEST)
    assert again.residual_norm == pytest.approx(owed)
    assert list(again.references) == ["v0"]
    np.testing.assert_array_equal(again.references["v0"], thetas[0])
    again.received(thetas[1], "v1", "run", 2)
    assert again.residual_norm == pytest.approx(owed)
    again.encode(thetas[2], codec)
    assert again.residual_norm != pytest.approx(owed)
    again.received(thetas[1], "v1", "run", 2)  # a server that was restarted asks once more
    assert again.residual_norm == pytest.approx(owed)
    again.received(thetas[1], "v1", "run, rolled back once", 3)
    assert again.residual_norm == 0
    again.close()


def test_after_whole_or_lossless_weights_nothing_is_owed(tmp_path):
    link, thetas = DeviceLink(tmp_path, DIGEST), walk(2)
    link.received(thetas[0], "v0", "run", 1)
    link.encode(thetas[1], parse_codec("topk:0.1"))
    assert link.residual_norm > 0
    link.settle()
    assert link.residual_norm == 0
    link.encode(thetas[1], parse_codec("topk:0.1"))
    link.encode(thetas[1], parse_codec("delta"))
    assert link.residual_norm == 0
    link.close()


def test_what_a_device_keeps_of_its_own_is_not_owed_twice(tmp_path):
    link, (fleet, own) = DeviceLink(tmp_path, DIGEST), walk(2)
    link.received(fleet, "v0", "run", 1)
    link.encode(own, parse_codec("topk:0.001"))
    adopted = np.where(np.arange(SIZE) < SIZE // 2, fleet, own)  # a rule that keeps its own second half
    payload = link.encode(adopted, parse_codec("topk:1"), adopted)
    sent = decode(payload, SIZE, fleet)
    np.testing.assert_allclose(sent[SIZE // 2 :], own[SIZE // 2 :], atol=1e-6)
    first = slice(0, SIZE // 2)
    assert np.mean(np.isclose(sent[first], own[first], atol=1e-6)) > 0.99  # owed, and sent now
    link.close()


def test_a_payload_message_is_checked_against_what_it_brings(identity):
    old, new = walk(2)
    payload, _ = parse_codec("delta").encode(new, old)
    config = {wire.REFERENCE: wire.version_of(old), wire.VERSION: wire.version_of(new)}
    content = wire.pack(new, bundle_digest=DIGEST, round_number=1, payload=payload, config=config)
    options = {"bundle_digest": DIGEST, "size": SIZE}
    with pytest.raises(FederationError, match="not at hand; send theta whole"):
        wire.unpack(content, **options)
    with pytest.raises(FederationError, match="not at hand; send theta whole"):
        wire.unpack(content, **options, references={"x": old})
    with pytest.raises(FederationError, match="expected weights of version"):
        wire.unpack(content, **options, references={wire.version_of(old): old + np.float32(1e-3)})
    got = wire.unpack(content, **options, references={wire.version_of(old): old})
    np.testing.assert_array_equal(got.theta, new)


@pytest.mark.parametrize("length", [0, 4 * SIZE + 5000])
def test_payloads_of_impossible_size_are_refused(length):
    with pytest.raises(FederationError, match="payload: "):
        wire.pack(walk(1)[0], bundle_digest=DIGEST, round_number=1, payload=np.zeros(length, np.uint8))
