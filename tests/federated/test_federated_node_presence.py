"""A node comes and goes: joining, heartbeats, gates, servers that are away."""

from __future__ import annotations

import threading

import pytest
from fake_node import THETA, Counting, told
from fake_superlink import NODE, message, records

from federated.node import NodeSettings, RefusedError
from federated.node.heartbeat import Heartbeat
from federated.node.pace import Pace


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


def test_pace_grows_to_its_bound_and_starts_again():
    pace = Pace(1.0, 60.0, jitter=0.0)
    assert [pace.wait() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    pace.restart()
    assert pace.wait() == 1.0
    spread = [Pace(1.0, 60.0).wait() for _ in range(200)]
    assert 0.75 <= min(spread) < 0.9 < 1.1 < max(spread) <= 1.25
