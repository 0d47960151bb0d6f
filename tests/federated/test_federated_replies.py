"""Flower's HttpGrid on a SuperLink in memory: no reply holds up another, none is lost, the heartbeat goes on."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fake_node import THETA
from fake_superlink import message, records
from flwr.app import Message
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.heartbeat import make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import given, settings
from hypothesis import strategies as st

from federated import compat
from federated.compat import fleet
from federated.compat.heartbeat import beating, steadfast
from federated.compat.replies import Replies
from federated.traffic import Traffic


class Runtime:
    """A SuperLink's runtime API: announces each reply once; `missing` objects are still to come, `fail` has 500s."""

    def __init__(self) -> None:
        self.waiting: list[fleet.Packed] = []
        self.objects: dict[str, bytes] = {}
        self.missing: set[str] = set()
        self.gone: set[str] = set()
        self.fail: list[bool] = []
        self.asked: list[str] = []
        self.confirmed: list[str] = []
        self.announced: set[str] = set()
        self.beat = threading.Event()

    def post(self, step: float) -> tuple[str, fleet.Packed]:
        """A device announces a reply: the name of its message, and the reply."""
        outgoing = message(records(THETA, round=1))
        parts = {name: part.deflate() for name, part in get_all_nested_objects(outgoing).items()}
        asked = fleet.assemble(outgoing.object_id, parts, 1 << 20)
        packed = fleet.pack_reply(Message(records(THETA + np.float32(step), round=1), reply_to=asked))
        self.waiting.append(packed)
        self.objects |= packed.objects
        return packed.reply_to, packed

    def _maybe(self) -> None:
        if self.fail and self.fail.pop(0):
            request = httpx.Request("POST", "http://test")
            raise httpx.HTTPStatusError("locked", request=request, response=httpx.Response(500, request=request))

    def PullMessages(self, request):  # noqa: N802
        self._maybe()
        found = [packed for packed in self.waiting if packed.reply_to in request.message_ids]
        assert not set(request.message_ids) & self.announced, "a SuperLink says that these replies are lost"
        self.announced |= {packed.reply_to for packed in found}
        self.waiting = [packed for packed in self.waiting if packed not in found]
        heads = [message_pb2.Message.FromString(packed.message) for packed in found]
        for head, packed in zip(heads, found, strict=True):
            head.metadata.message_id = list(packed.objects)[-1]
        trees = [message_pb2.ObjectTree.FromString(packed.tree) for packed in found]
        return runtime_pb2.PullAppMessagesResponse(messages_list=heads, message_object_trees=trees)

    def PullObject(self, request):  # noqa: N802
        self._maybe()
        name = request.object_id
        self.asked.append(name)
        there, found = name not in self.missing, name not in self.gone
        content = self.objects[name] if there and found else b""
        return message_pb2.PullObjectResponse(object_found=found, object_available=there, object_content=content)

    def SendTaskHeartbeat(self, request):  # noqa: N802
        self._maybe()
        self.beat.set()
        return runtime_pb2.SendTaskHeartbeatResponse(success=True)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self._maybe()
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def runtime():
    return Runtime()


def grid_of(runtime: Runtime) -> HttpGrid:
    grid = HttpGrid(token="t")
    grid.set_run(compat.empty_run())
    grid._client = runtime
    return grid


@pytest.fixture
def replies(runtime):
    found = Replies.of(grid_of(runtime))
    assert found is not None
    return found


def steps(found: list[Message]) -> list[float]:
    return [float(reply.content["arrays"]["theta"].numpy()[0]) for reply in found]


def test_another_grid_pulls_for_itself():
    assert Replies.of(SimpleNamespace()) is None


def test_a_reply_comes_whole_and_is_confirmed(runtime, replies):
    name, packed = runtime.post(3)
    (reply,) = replies.pull([name, "other"])
    np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 3)
    assert (reply.metadata.reply_to_message_id, reply.metadata.message_id) == (name, list(packed.objects)[-1])
    assert runtime.confirmed == [reply.metadata.message_id]
    assert name not in replies


def test_who_stops_halfway_holds_up_nobody(runtime, replies):
    (slow, packed), (quick, other) = runtime.post(1), runtime.post(2)
    last = list(packed.objects)[-1]
    runtime.missing = {last}
    assert steps(replies.pull([slow, quick])) == [2]
    assert (slow in replies, quick in replies) == (True, False)
    assert list(replies.pull([slow])) == []
    assert set(runtime.asked) & (set(packed.objects) - set(other.objects)) == {last}  # and nothing else of it is held
    runtime.missing = set()
    assert steps(replies.pull([slow])) == [1]
    assert slow not in replies


def test_who_never_comes_back_is_an_error_reply(runtime, replies):
    name, packed = runtime.post(1)
    runtime.gone = {next(iter(packed.objects))}
    (reply,) = replies.pull([name])
    assert (reply.error.code, reply.metadata.reply_to_message_id) == (compat.LOST[0], name)
    assert name not in replies


def test_a_reply_that_makes_no_message_does_not_end_the_run(runtime, replies):
    name, packed = runtime.post(1)
    runtime.objects[next(iter(packed.objects))] = b"Nonsense  0\0"
    (reply,) = replies.pull([name])
    assert reply.error.code == compat.CLIENT_RAISED
    assert "cannot be put together" in reply.error.reason


def test_nobody_answers_in_the_name_of_another(runtime, replies):
    """What is announced as the answer to one message says inside that it answers another node's."""
    (own, mine), (other, _) = runtime.post(1), runtime.post(2)
    head = message_pb2.Message.FromString(mine.message)
    head.metadata.reply_to_message_id = other
    forged = fleet.Packed(mine.run_id, other, mine.expires, head.SerializeToString(), mine.tree, mine.objects)
    runtime.waiting = [forged]
    (reply,) = replies.pull([own, other])
    assert reply.metadata.reply_to_message_id == other
    assert "not the reply that was announced" in reply.error.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=30), st.lists(st.integers(0, 11), max_size=12))
def test_whatever_fails_and_is_late_every_reply_comes_once(fail, late):
    runtime = Runtime()
    grid = grid_of(runtime)
    replies, found = Replies(grid), list[Message]()

    def left():
        return sorted(set(posted) - {reply.metadata.reply_to_message_id for reply in found})

    posted = dict(runtime.post(step) for step in range(3))
    parts = [part for packed in posted.values() for part in packed.objects]
    runtime.missing, runtime.fail = {parts[i % len(parts)] for i in late}, list(fail)
    for _ in range(len(fail) + len(late) + 1):
        with contextlib.suppress(httpx.HTTPStatusError):
            found.extend(replies.pull(left()))
        if runtime.missing:
            runtime.missing.pop()
    runtime.missing.clear()
    runtime.fail.clear()
    found.extend(replies.pull(left()))
    assert sorted(reply.metadata.reply_to_message_id for reply in found) == sorted(posted)
    assert not any(reply.has_error() for reply in found)


def test_a_busy_database_does_not_end_the_heartbeat(runtime):
    """Flower's own function raises, which ends Flower's thread; False makes that try again."""
    grid = grid_of(runtime)
    runtime.fail = [True, True]
    with pytest.raises(httpx.HTTPStatusError):
        make_task_heartbeat_fn_http(grid._runtime_client)()
    beat = steadfast(grid)
    assert [beat(), beat()] == [False, True]


def test_it_beats_while_a_run_lasts(runtime):
    with beating(grid_of(runtime)):
        assert runtime.beat.wait(10)
    with beating(SimpleNamespace()):
        pass


class TestTraffic:
    """A grid whose clock stands still unless told."""

    @pytest.fixture
    def traffic(self, runtime, monkeypatch, identity):
        grid = grid_of(runtime)
        monkeypatch.setattr(grid, "push_messages", lambda messages: self.named)
        traffic = Traffic(grid, timeout=100.0, remind_after=10.0)
        self.time = 0.0
        traffic.now = lambda: self.time
        return traffic

    def test_a_reply_under_way_is_no_silence_and_the_deadline_holds(self, runtime, traffic):
        name, packed = runtime.post(1)
        self.named = [name]
        traffic.send([message(records(THETA, round=1))], 1)
        runtime.missing = {list(packed.objects)[-1]}
        assert list(traffic.replies()) == []
        self.time = 50.0
        assert traffic.remind() == []
        self.time = 100.0
        (asked,) = traffic.overdue()
        assert asked.first == name
        runtime.missing = set()
        assert list(traffic.replies()) == []

    def test_a_reply_that_never_came_whole_is_asked_for_at_once(self, runtime, traffic):
        name, packed = runtime.post(1)
        self.named = [name]
        traffic.send([message(records(THETA, round=1))], 1)
        runtime.gone = {list(packed.objects)[-1]}
        assert list(traffic.replies()) == []
        self.named = ["again"]
        assert [asked.first for asked in traffic.remind()] == [name]

    def test_a_busy_database_costs_time_alone(self, runtime, traffic):
        name, _ = runtime.post(1)
        self.named = [name]
        traffic.send([message(records(THETA, round=1))], 1)
        runtime.fail = [False, False, True]
        assert list(traffic.replies()) == []
        ((asked, reply),) = traffic.replies()
        assert (asked.first, steps([reply])) == (name, [1])
