"""Answers of a real SuperLink that get lost on the way, and Flower's own node that dies (make test-deploy)."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.proto import fleet_pb2
from real_fleet import EDGESSL, Fleet, Process, wait

from edgessl.device import Learner
from federated import FederationResult, federate_in_process
from federated.deployment.programs import Programs, environment, free_port, write_toml

pytestmark = pytest.mark.deploy
STEPS = 10
LOCKED_ROUNDS = 8


class Relay(http.server.ThreadingHTTPServer):
    """Passes every request on, and drops the answers to the calls in `lose`: the server has done what it was asked.

    An answer to "pull-messages" counts when it brings a message. After the call `last` it is as if the device had died.
    """

    last = ""

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.lose, self.lost = target, Counter[str](), Counter[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Its server is away: so is this one."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.last == "over":
            self.close_connection = True
            return
        link = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        link.request("POST", self.path, body, dict(self.headers))
        answer = link.getresponse()
        data, call = answer.read(), self.path.rpartition("/")[2]
        brings = call != "pull-messages" or bool(fleet_pb2.PullMessagesResponse.FromString(data).messages_list)
        if call == self.server.last:
            self.server.last = "over"
        if answer.status == 200 and brings and self.server.lose[call] > 0:
            self.server.lose[call] -= 1
            self.server.lost[call] += 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def streams(tmp_path, samples):
    found = [samples(100 * (2 * i + 1), seed=i) for i in range(2)]
    for i, stream in enumerate(found):
        np.save(tmp_path / f"s{i}.npy", stream)
    return found


@contextlib.contextmanager
def two_nodes(folder: Path, bundle: Path, serve: list[str], relay: Relay | None = None) -> Iterator[list[Process]]:
    """The server and two nodes that learn from the streams in `folder`, the second through `relay`; stopped at last."""
    port = free_port() if relay is None else relay.target
    command = [*EDGESSL, "federate", "serve", str(folder / "server"), "--insecure", "--port", str(port)]
    started = [Process(folder / "serve.log", *command, "--run", str(bundle), *serve, "--json")]
    try:
        wait(lambda: "has begun" in started[0].text, "the run", *started)
        for i, server in enumerate((port, port if relay is None else relay.server_port)):
            join = [*EDGESSL, "federate", "join", str(bundle), "--server", f"127.0.0.1:{server}", "--insecure"]
            join += ["--stream", str(folder / f"s{i}.npy"), "--state", str(folder / f"state-{i}"), "--seed", str(i)]
            join += ["--local-steps", str(STEPS), "--poll", "0.2", "2", "--json"]
            started.append(Process(folder / f"d{i}.log", *join))
        yield started
    finally:
        for process in reversed(started):
            process.stop()
        if relay is not None:
            relay.shutdown()
            relay.server_close()


def test_a_round_whose_answers_get_lost_is_whole_after_a_reminder(tmp_path, bundle_path, bundle, streams):
    folder, relay = tmp_path / "server", Relay(free_port())
    relay.lose.update({"pull-messages": 1, "pull-object": 2, "confirm-message-received": 1, "push-object": 2})
    with two_nodes(tmp_path, bundle_path, ["--rounds", "3", "--remind-after", "15"], relay) as started:
        assert started[0].process.wait(150) == 0, started[0].text
        rounds = FederationResult.load(folder / "run" / "theta.safetensors", bundle.digest).rounds
        events = started[2].events()
    assert sum(relay.lost.values()) == 6
    assert [(r["clients"], r["failures"]) for r in rounds] == [(2, {})] * 3
    assert rounds[0]["reminded"] >= 1
    print(f"lost {dict(relay.lost)}: rounds took {[round(r['seconds'], 1) for r in rounds]} s")
    assert sum(event["event"] == "answered" for event in events) == 3
    here = federate_in_process(bundle, streams, rounds=3, local_steps=STEPS, workdir=tmp_path / "here")
    found = FederationResult.load(folder / "run" / "theta.safetensors", bundle.digest)
    np.testing.assert_allclose(found.theta, here.theta, atol=1e-6)


def test_a_device_that_dies_while_it_uploads_holds_up_its_round_no_longer_than_any_other(
    tmp_path, bundle_path, bundle, streams
):
    """Flower's grid would wait three minutes for the rest of the reply, whatever the round's deadline is."""
    folder, relay = tmp_path / "server", Relay(free_port())
    relay.last = "push-messages"
    with two_nodes(tmp_path, bundle_path, ["--rounds", "1", "--round-timeout", "20"], relay) as started:
        assert started[0].process.wait(150) == 0, started[0].text
        rounds = FederationResult.load(folder / "run" / "theta.safetensors", bundle.digest).rounds
    assert relay.last == "over"
    ((clients, why, seconds),) = [(r["clients"], list(r["failures"].values()), r["seconds"]) for r in rounds]
    assert (clients, why) == (1, ["no reply within 20 s"])
    assert seconds < 100  # its deadline's 20, and not the 180 of the SuperLink's patience


class Locker(threading.Thread):
    """Locks a SQLite database for longer than a SuperLink waits for it (5 s), again and again."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.stop, self.locked = path, threading.Event(), 0

    def run(self) -> None:
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        while not self.stop.wait(4.0):
            with contextlib.suppress(sqlite3.OperationalError):
                database.execute("BEGIN IMMEDIATE")
                self.locked += 1
                self.stop.wait(5.6)
                database.execute("COMMIT")
        database.close()


def test_a_run_gets_through_a_database_that_is_locked_again_and_again(tmp_path, bundle_path, bundle, streams):
    """Calls of every kind fail with HTTP 500, the nodes' and the ServerApp's; no device and no round is lost.

    A message that the ServerApp could hand over by half only costs its round a minute (`inbox.PATIENCE`), such a reply
    the three minutes after which a SuperLink gives it up.
    """
    folder = tmp_path / "server"
    locker = Locker(folder / "superlink.db")
    with two_nodes(tmp_path, bundle_path, ["--rounds", str(LOCKED_ROUNDS), "--remind-after", "20"]) as started:
        locker.start()
        try:
            assert started[0].process.wait(600) == 0, started[0].text
            events = [process.events() for process in started[1:]]
        finally:
            locker.stop.set()
    found = FederationResult.load(folder / "run" / "theta.safetensors", bundle.digest)
    print(f"locked {locker.locked} times: rounds took {[round(r['seconds'], 1) for r in found.rounds]} s")
    assert locker.locked >= 2
    assert [(r["clients"], r["failures"]) for r in found.rounds] == [(2, {})] * LOCKED_ROUNDS
    learned = [[e for e in each if e["event"] == "answered" and "error" not in e] for each in events]
    assert [len(each) for each in learned] == [LOCKED_ROUNDS] * 2
    here = federate_in_process(bundle, streams, rounds=LOCKED_ROUNDS, local_steps=STEPS, workdir=tmp_path / "here")
    np.testing.assert_allclose(found.theta, here.theta, atol=1e-6)


def test_flowers_own_node_that_was_killed_goes_on_with_what_it_had_learned(tmp_path, bundle_path, bundle, streams):
    """A SuperLink refuses it for a while, since it went without a goodbye; then the run ends with all its rounds."""
    with Fleet(tmp_path / "fleet", bundle_path) as fleet:
        serve = fleet.serve("--run", str(bundle_path), "--rounds", "5", "--local-steps", str(STEPS), "--json")
        wait(lambda: "has begun" in serve.text, "the run", serve)
        stream = str(tmp_path / "s0.npy")
        fleet.join(0, "--stream", stream, "--local-steps", str(STEPS), "--poll", "0.2", "2")
        own = {"bundle": str(bundle_path), "state-dir": str(tmp_path / "stock"), "stream": str(tmp_path / "s1.npy")}
        write_toml(tmp_path / "node.toml", own | {"seed": 1})
        (tmp_path / "logs").mkdir()

        def node(name: str) -> Programs:
            programs = Programs(environment(tmp_path / "flwr"), tmp_path / "logs", 60.0)
            where = ("--superlink", f"127.0.0.1:{fleet.port}", "--root-certificates", str(fleet.tls / "ca.crt"))
            key = ("--auth-supernode-private-key", str(fleet.keys / "d1"), "--port", str(free_port()))
            programs.start(name, "flower-supernode", *where, *key, "--node-config", str(tmp_path / "node.toml"))
            return programs

        first = node("first")
        log = fleet.server / "run" / "state" / "lineage.jsonl"
        wait(lambda: log.exists() and '"round":2' in log.read_text(), "two rounds", serve, seconds=150)
        for pid in first.group("first"):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        with Learner.open(bundle, tmp_path / "stock", seed=1) as learner:
            learned = learner.metrics()["steps"]
        assert learned >= 2 * STEPS
        began, tries = time.monotonic(), 0
        while serve.process.poll() is None and time.monotonic() - began < 240:
            tries += 1
            with node(f"try{tries}") as programs:
                while serve.process.poll() is None and time.monotonic() - began < 240:
                    if any(process.poll() is not None for process in programs._running.values()):
                        break  # refused
                    time.sleep(1)
        assert serve.process.poll() == 0, serve.text
        rounds = json.loads(serve.text[serve.text.index("{\n") :])["rounds"]
    print(f"back after {tries} tries, the run over {time.monotonic() - began:.0f} s after the kill")
    assert [r["round"] for r in rounds] == [1, 2, 3, 4, 5]
    assert [r["clients"] for r in rounds[:2]] == [2, 2]
    assert rounds[-1]["clients"] == 2
    with Learner.open(bundle, tmp_path / "stock", seed=1) as learner:
        assert learner.metrics()["observed"] == len(streams[1])
        assert learner.metrics()["steps"] > learned
