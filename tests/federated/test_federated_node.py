"""The lean node against a SuperLink in memory: what it answers, refuses, keeps, and how it comes back."""

from __future__ import annotations

import ctypes
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_superlink import NODE, FakeSuperLink, message, records
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device import Learner
from edgessl.errors import ConfigError, FederationError, StateError
from federated import message as wire
from federated.client import train_round
from federated.compat import fleet
from federated.node import Letters, Node, NodeSettings, RefusedError, message_bytes
from federated.node.device import _hand_back
from federated.node.heartbeat import Heartbeat
from federated.node.pace import Pace

THETA = np.arange(6, dtype=np.float32)
OBJECTS = st.dictionaries(st.text("abcdef0123456789", min_size=64, max_size=64), st.binary(max_size=300), max_size=5)


class Counting:
    """An `answer` that adds one to theta and counts how often it was asked."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.asked, self.fail = 0, fail

    def __call__(self, found: Message) -> Message:
        self.asked += 1
        if self.fail is not None:
            raise self.fail
        theta = found.content["arrays"]["theta"].numpy()
        return Message(records(theta + 1, round=found.content["config"]["round"]), reply_to=found)


@pytest.fixture
def server() -> FakeSuperLink:
    return FakeSuperLink()


@pytest.fixture
def make(server, tmp_path):
    """make(answer, **settings): a node whose disk is the test's folder; it has not spoken yet."""

    def build(answer=None, gates=(), **given):
        link = server
        link.server, link.tls, link.timeout, link.identity = "test:1", object(), 1.0, Who()
        node = Node(
            link,
            Letters(tmp_path / "letters"),
            answer or Counting(),
            NodeSettings(poll=(0.01, 0.04), away=0.04, **given),
            gates=gates,
            on_event=lambda event: node.told.append(event),
        )
        node.told = []
        return node

    return build


class Who:
    public_key = b"public"


def told(node, event):
    return [e for e in node.told if e["event"] == event]


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


class TestPowerCuts:
    def test_while_learning_the_message_is_taken_up_again(self, server, make):
        def dies(found):
            raise KeyboardInterrupt

        name = server.post(message(records(THETA, round=5)))
        with pytest.raises(KeyboardInterrupt):
            make(dies)._turn()
        assert server.replies == []
        node = make(answer := Counting())
        node._turn()
        assert answer.asked == 1
        assert server.replies[0].metadata.reply_to_message_id == name

    def test_a_message_that_is_here_is_answered_while_the_link_is_cut(self, server, make):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=1)))
        server.lose_after = "confirm-message-received"
        node._turn()
        restarted = make(answer)  # not even a join is needed
        restarted._turn()
        restarted._turn()
        assert (answer.asked, server.replies) == (1, [])
        server.away = False
        restarted._turn()
        assert len(server.replies) == 1

    def test_a_message_nobody_waits_for_any_longer_is_dropped(self, server, make, tmp_path):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=1), ttl=50.0, age=100.0))
        node._turn()
        assert answer.asked == 1  # its clock may be wrong: only what was kept is judged
        node.letters.keep_message("f" * 64, {"f" * 64: b"x"}, expires=1.0)
        node._turn()
        assert told(node, "dropped")[-1]["reason"] == "nobody waits for its reply any longer"
        assert node.letters.message() is None

    @pytest.mark.parametrize("after", ["push-messages", "push-object"])
    def test_a_reply_survives_a_cut_and_a_restart(self, server, make, after):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=2)))
        server.lose_after = after
        node._turn()
        assert server.replies == []
        assert told(node, "away")
        server.away = False
        for _ in range(2):
            make(answer)._turn()  # another process: the reply comes from the disk, once
        (reply,) = server.replies
        np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 1)
        assert answer.asked == 1

    def test_a_reply_to_a_run_that_ended_is_let_go(self, server, make):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=2)))
        server.lose_after = "push-messages"
        node._turn()
        server.away, server.over = False, True
        node._turn()
        assert "the run is over" in told(node, "undelivered")[0]["reason"]
        assert node.letters.reply() is None
        server.over = False
        server.post(message(records(THETA, round=1)))
        node._turn()
        assert answer.asked == 2

    @pytest.mark.parametrize("after", ["pull-object", "send-node-heartbeat", "confirm-message-received"])
    def test_a_message_cut_off_on_its_way_is_fetched_to_its_end(self, server, make, after):
        node = make(answer := Counting())
        node._turn()
        server.post(message(records(THETA, round=1)))
        server.lose_after = after
        node._turn()
        server.away = False
        node._turn()
        node._turn()
        assert (answer.asked, len(server.replies)) == (1, 1)
        assert server.calls.count("pull-object") == len(server.objects) + (after == "pull-object")

    def test_power_lost_over_a_message_on_its_way_loses_it_without_harm(self, server, make):
        server.post(message(records(THETA, round=1)))
        server.lose_after = "pull-object"
        make()._turn()
        server.away, node = False, make(answer := Counting())
        node._turn()
        assert (answer.asked, server.replies) == (0, [])
        server.post(message(records(THETA, round=2)))
        node._turn()
        assert answer.asked == 1

    def test_a_disk_that_is_full_for_a_while_ends_nothing(self, server, make, monkeypatch):
        def full(path, *parts):
            raise OSError(28, "No space left on device")

        node = make(answer := Counting())
        node._turn()
        with monkeypatch.context() as patch:
            patch.setattr("federated.node.letters.write_atomically", full)
            server.post(message(records(THETA, round=1)))
            node._turn()
        assert "No space left on device" in told(node, "disk")[0]["reason"]
        node._turn()  # the very same message
        assert (answer.asked, len(server.replies)) == (1, 1)


def reminder(name: str, **config: Any) -> Message:
    """What a server sends when the reply to the message of that name does not come."""
    again = wire.repeat(message(records(THETA, **config)), name, 600.0)
    outgoing = message(records(THETA, **config))
    outgoing.metadata.group_id = again.metadata.group_id
    return outgoing


class TestReminders:
    def test_a_message_whose_announcement_was_lost_is_answered_when_it_is_repeated(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(sent := message(records(THETA, round=1)))
        server.lose_after = "pull-messages"
        node._turn()
        server.away = False
        node._turn()
        assert (answer.asked, server.replies) == (0, [])
        second = server.post(reminder(first, round=1))
        node._turn()
        (reply,) = server.replies
        assert reply.metadata.reply_to_message_id == second
        server.post(sent)  # it comes after all
        node._turn()
        assert (answer.asked, len(server.replies)) == (1, 1)
        assert told(node, "dropped")[-1]["reason"] == "answered before"

    def test_what_was_answered_is_said_again_and_not_learned_again(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        second = server.post(reminder(first, round=1))
        fetched = server.calls.count("pull-object")
        make(answer)._turn()  # even after a restart
        one, two = server.replies
        assert two.metadata.reply_to_message_id == second
        assert two.content == one.content
        third = server.post(reminder(first, round=1))
        make(answer)._turn()
        assert server.replies[-1].metadata.reply_to_message_id == third
        assert server.replies[-1].content == one.content
        assert (answer.asked, server.calls.count("pull-object")) == (1, fetched)

    def test_an_error_is_said_again_too(self, server, make, identity):
        node = make(answer := Counting(FederationError("no power")))
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        server.post(reminder(first, round=1))
        node._turn()
        assert [reply.error.reason for reply in server.replies] == ["FederationError: no power"] * 2
        assert answer.asked == 1

    def test_a_reply_that_is_no_longer_here_is_an_error(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        server.post(message(records(THETA, round=2)))
        node._turn()
        server.post(reminder(first, round=1))
        node._turn()
        assert "was answered before" in server.replies[-1].error.reason
        assert answer.asked == 2


def test_a_reply_that_was_cut_off_goes_on_in_its_session(server, make):
    """A ServerApp that took the announcement waits for its objects; it would be announced a second time in vain."""
    node = make(answer := Counting())
    server.post(message(records(THETA, round=1)))
    server.lose_after, server.taken = "push-object", True
    node._turn()
    assert server.replies == []
    server.away = False
    node._turn()
    assert (answer.asked, len(server.replies), server.calls.count("push-messages")) == (1, 1, 1)
    node._turn()  # announced once more, to know: nothing is wanted any longer
    assert told(node, "delivered")
    assert (len(server.replies), node.letters.reply()) == (1, None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_whichever_answers_are_lost_a_message_is_answered_once(tmp_path_factory, lost):
    """Every answer but that of the pull itself may be lost: the message is there, its reply is taken, once."""
    server, answer = FakeSuperLink(), Counting()
    server.server, server.tls, server.timeout, server.identity = "test:1", object(), 1.0, Who()
    letters, quick = Letters(tmp_path_factory.mktemp("letters")), NodeSettings(poll=(0.01, 0.04), away=0.04)
    node = Node(server, letters, answer, quick)
    node._turn()
    server.post(message(records(THETA, round=1)))
    assert node._inbox.look(NODE) is not None
    server.lose = lost
    for _ in range(len(lost) + 2):
        node._turn()
    (reply,) = server.replies
    np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 1)
    assert answer.asked == 1
    assert letters.reply() is None


class TestComingAndGoing:
    def test_a_key_that_is_refused_ends_the_node_at_first_contact(self, server, make):
        server.refuse["activate-node"] = RefusedError("unknown key", 412, 2004)
        with pytest.raises(RefusedError, match="unknown key"):
            make().run(threading.Event())

    def test_a_device_that_went_without_a_goodbye_comes_back_under_its_number(self, server, make):
        make()._turn()
        assert server.online
        restarted = make()
        restarted._turn()
        assert restarted.number == NODE
        assert server.calls.count("activate-node") == 1

    def test_a_number_that_is_somebody_elses_now_is_not_used(self, server, make):
        make()._turn()
        server.refuse["send-node-heartbeat"] = RefusedError("Invalid SuperNode authentication", 401, 0)
        server.online = False
        make()._turn()
        assert server.calls.count("activate-node") == 2

    def test_a_server_that_forgot_a_known_node_is_asked_again(self, server, make):
        node = make()
        node._turn()
        server.unknown = True
        node._heart.unknown.set()  # as the heartbeat does
        server.refuse["activate-node"] = RefusedError("unknown key", 412, 2004)
        node._turn()
        assert told(node, "refused")
        del server.refuse["activate-node"]
        node._turn()
        assert len(told(node, "joined")) == 2

    def test_waits_grow_while_the_server_is_away_and_start_again(self, server, make):
        node = make()
        node._turn()
        server.away = True
        waits = [node._turn() for _ in range(6)]
        assert max(waits) <= 0.04 * 1.25
        server.away = False
        node._turn()
        assert node.number == NODE

    def test_an_idle_node_promises_what_its_looks_keep_and_a_busy_one_is_missed_soon(self, server, make):
        node = make(heartbeat=30.0)
        assert node.settings.idle_heartbeat == 30.0
        assert NodeSettings(heartbeat=30.0).idle_heartbeat == 75.0
        node._turn()
        node._turn()
        assert "send-node-heartbeat" not in server.calls  # the activation said it
        node._beaten -= 20.0
        node._turn()
        assert server.calls[-2:] == ["send-node-heartbeat", "pull-messages"]  # one connection for both
        seen = []
        node.answer = lambda found: seen.append(node._heart.work_for) or Counting()(found)
        server.post(message(records(THETA, round=1)))
        node._turn()
        assert seen == [NODE]
        assert node._heart.work_for is None
        assert server.calls[-1] == "send-node-heartbeat"  # takes back the short promise
        before = len(server.calls)
        node._turn()
        assert server.calls[before:] == ["pull-messages"]

    def test_the_heartbeat_beats_for_work_alone_and_says_when_nobody_knows_the_node(self, server, monkeypatch):
        monkeypatch.setattr("federated.node.heartbeat.Link", lambda *_: server)
        server.server, server.tls, server.timeout, server.identity = "test:1", object(), 1.0, Who()
        heart, stop = Heartbeat(server, 0.02), threading.Event()
        beating = threading.Thread(target=heart.run, args=(stop,))
        beating.start()
        assert not heart.unknown.wait(0.1)
        assert server.calls == []
        server.unknown, heart.work_for = True, NODE
        assert heart.unknown.wait(10)
        stop.set()
        beating.join(10)

    def test_a_closed_gate_says_goodbye_and_stays_silent(self, server, make):
        closed = ["battery at 9 %, below 20 %"]
        node = make(gates=[lambda: None, lambda: closed[0] if closed else None])
        server.post(message(records(THETA, round=1)))
        assert node._turn() == node.settings.gate
        assert server.calls == []
        reasons = closed.copy()
        closed.clear()
        node._turn()
        closed.extend(reasons)
        node._turn()
        assert server.calls[-1] == "deactivate-node"
        assert told(node, "gate")[-1]["reason"] == reasons[0]
        assert node.number is None

    def test_stopping_says_goodbye(self, server, make, monkeypatch):
        monkeypatch.setattr("federated.node.heartbeat.Link", lambda *_: server)
        node, stop = make(heartbeat=10.0), threading.Event()
        runner = threading.Thread(target=node.run, args=(stop,))
        runner.start()
        while "pull-messages" not in server.calls:
            runner.join(0.01)
        stop.set()
        runner.join(10)
        assert server.calls[-1] == "deactivate-node"


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


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text("abcdef0123456789", min_size=64, max_size=64), st.binary(max_size=300), max_size=5),
    st.floats(0, 1e12),
)
def test_letters_give_back_what_they_were_given(tmp_path_factory, parts, expires):
    letters = Letters(tmp_path_factory.mktemp("letters"))
    letters.keep_message("f" * 64, parts, expires)
    assert letters.message() == ("f" * 64, parts, expires)
    reply = fleet.Packed(2**63, "e" * 64, expires, b"head", b"tree", parts)
    letters.keep_reply(reply, 1.5)
    assert letters.message() is None
    again = Letters(letters.folder)
    assert again.reply() == (reply, 1.5)
    assert again.answered("e" * 64)
    again.drop_reply()
    assert again.reply() is None


@pytest.mark.parametrize("name", ["message", "reply", "answered.json", "number.json"])
def test_a_damaged_letter_is_set_aside(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff" * 40)
    letters = Letters(tmp_path)
    assert letters.number("s:1") is None
    assert letters.message() is None
    assert letters.reply() is None
    assert "set aside" in letters.problems[0]
    assert (tmp_path / f"{name}.damaged").exists()


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="nothing that was kept before is lost"):
        Letters(tmp_path / "file")


def test_pace_grows_to_its_bound_and_starts_again():
    pace = Pace(1.0, 60.0, jitter=0.0)
    assert [pace.wait() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    pace.restart()
    assert pace.wait() == 1.0
    spread = [Pace(1.0, 60.0).wait() for _ in range(200)]
    assert 0.75 <= min(spread) < 0.9 < 1.1 < max(spread) <= 1.25


def test_memory_that_was_freed_goes_back_to_the_system():
    """A thousand small blocks below one that stays: glibc keeps them until it is told."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    blocks = [bytes(60_000) for _ in range(1000)]
    stays = bytes(60_000)
    blocks.clear()
    before = resident()
    _hand_back()
    assert before - resident() > 40 << 20
    assert len(stays) == 60_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
