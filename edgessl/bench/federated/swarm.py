"""Lean nodes by the hundred in one process, each with its own key, link and letters; they sleep instead of learning.

    python -m edgessl.bench.federated.swarm < {"server", "ca", "keys": [...], "sleeps": [...], "poll": [s, s], "folder"}

The wire is real to the last byte: TLS, signatures, one object after the other, replies of which no two are alike. A
node's memory is not: they share one interpreter. In its first run a node does not sleep, which tells what the server
and the wire cost alone.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import Message

from edgessl.bench.device.bundles import checkpoint
from edgessl.bench.federated.node import BATCH, memory, online
from edgessl.bench.federated.wire import row
from edgessl.device import Bundle
from export import export_bundle
from export.parity import random_fields
from federated import Device, FederationResult, Fleet, RoundSettings, make_server_app, run_local
from federated.deployment import certificates
from federated.deployment.programs import Programs, environment, free_port
from federated.deployment.superlink import Operator, Server, running
from federated.message import DIGEST, EXAMPLES, config_of, pack, unpack
from federated.node import Identity, Letters, Link, Node, NodeSettings, trust

Answer = Callable[[Message], Message]
_LIMIT = 900.0


def main() -> None:
    """Be the nodes of the question on stdin until told to stop."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    stop, threads = threading.Event(), []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threading.stack_size(512 << 10)
    context, settings = trust(told["ca"]), NodeSettings(poll=tuple(told["poll"]))
    for i, key in enumerate(told["keys"]):
        link = Link(told["server"], Identity.read(key), context, timeout=120.0)
        node = Node(link, Letters(Path(told["folder"]) / str(i)), sleeper(i, told["sleeps"][i]), settings)
        threads.append(threading.Thread(target=node.run, args=(stop,)))
        threads[-1].start()
        time.sleep(0.01)  # a thousand at once would only queue
    for thread in threads:
        thread.join()


def sleeper(number: int, seconds: float) -> Answer:
    """An answer that adds something of its own to the weights, and sleeps, but not in the first run it sees."""
    first: list[int] = []

    def answer(message: Message) -> Message:
        config = config_of(message.content)
        size = int(message.content["arrays"]["theta"].shape[0])  # type: ignore[union-attr]
        update = unpack(message.content, bundle_digest=config[DIGEST], size=size)
        first.append(message.metadata.run_id)
        if message.metadata.run_id != first[0]:
            time.sleep(seconds)
        theta = update.theta + np.float32(2.0**-20 * (number + 1))
        metrics = {EXAMPLES: 1, "loss": 1.0}
        content = pack(theta, bundle_digest=config[DIGEST], round_number=update.round, metrics=metrics)
        return Message(content, reply_to=message)

    return answer


def measure(
    registered: int, asked: int, rounds: int, encoder: str, sleeps: list[float], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows of one federation without sleep, and, if `sleeps` has any, of a second one with it."""
    with TemporaryDirectory(prefix="edgessl-swarm-") as name:
        folder = Path(name)
        made, bundle = checkpoint(encoder), folder / "full.edgessl"
        export_bundle(made, bundle, calibration=random_fields(made.input, 64, 0), batch_size=BATCH)
        server = Server(folder / "server", port=free_port(), tls=folder / "tls")
        certificates.create_authority(folder / "tls")
        certificates.issue_server(folder / "tls", [])
        keys = [folder / f"d{i}" for i in range(registered)]
        for key in keys:
            Identity.create(key)
        slow = registered > 50
        told: dict[str, Any] = {
            "server": server.address,
            "ca": str(folder / "tls" / "ca.crt"),
            "keys": [str(key) for key in keys],
        }
        told |= {
            "sleeps": sleeps or [0.0] * registered,
            "poll": [60, 120] if slow else [1, 1],
            "folder": str(folder / "s"),
        }
        (folder / "told").write_text(json.dumps(told) + "\n")
        (folder / "logs").mkdir()
        rows = []
        with running(server) as superlink, Operator(server) as operator:
            began = time.monotonic()
            operator.register([key.with_name(f"{key.name}.pub") for key in keys])
            registering = time.monotonic() - began
            with Programs(environment(folder / "flwr"), folder / "logs", _LIMIT) as nodes:
                command = f"exec {sys.executable} -m edgessl.bench.federated.swarm < {folder / 'told'}"
                nodes.start("swarm", "bash", "-c", command)
                nodes.wait(lambda: online(operator) == registered, f"{registered} nodes to join", every=2.0)
                progress(f"{registered} nodes joined")
                for number in range(1, 3 if sleeps else 2):
                    config: dict[str, object] = {
                        "bundle": str(bundle),
                        "save-to": str(folder / f"{number}.safetensors"),
                    }
                    config |= {"rounds": rounds, "min-nodes": asked, "fraction-train": asked / registered}
                    operator.wait(operator.submit(f"bench{number}", config), keep_on=lambda: True)
                    result = FederationResult.load(folder / f"{number}.safetensors", Bundle.open(bundle).digest)
                    rows.append(
                        row(result, asked, registered) | {"node_peak_rss_mb": None}
                    )  # many nodes share a process
                    rows[-1]["server_rss_mb"] = memory(superlink.group("superlink"))["rss"]
                    rows[-1]["registered_per_second"] = round(registered / registering, 1)
                    progress(f"{asked} of {registered}: {rows[-1]['p50_s']} s a round")
    return rows


def check_clock(devices: int, rounds: int, encoder: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """The virtual clock beside real nodes that sleep.

    One number, the server's seconds per message, is fitted to the rounds without sleep; those with sleep are foretold.
    """
    sleeps = [round(float(s), 2) for s in np.exp(np.random.default_rng(0).normal(np.log(6), 0.6, devices))]
    return compare(measure(devices, devices, rounds, encoder, sleeps, progress), sleeps, rounds)


def compare(rows: list[dict[str, Any]], sleeps: list[float], rounds: int) -> dict[str, Any]:
    """What `check_clock` found: medians of real and virtual rounds, and by how much the virtual ones are off."""
    awake, asleep = (float(np.median(row["round_seconds"])) for row in rows)
    none, poll_s, parameters = [0.0] * len(sleeps), 1.0, rows[0]["parameters"]
    low, high = 0.0, 5.0
    for _ in range(16):
        middle = (low + high) / 2
        if np.median(virtual(parameters, none, rounds, middle, poll_s)) < awake:
            low = middle
        else:
            high = middle
    told = float(np.median(virtual(parameters, sleeps, rounds, high, poll_s)))
    return {
        "devices": len(sleeps),
        "sleeps": sleeps,
        "server_s": round(high, 4),
        "real_awake_s": awake,
        "real_asleep_s": asleep,
        "virtual_asleep_s": round(told, 2),
        "error_percent": round(100 * (told - asleep) / asleep, 1),
    }


def virtual(parameters: int, sleeps: list[float], rounds: int, server_s: float, poll_s: float) -> list[float]:
    """Seconds of the same rounds by the virtual clock."""
    seconds: list[float] = []
    devices = [Device(poll_s=poll_s, compute_s=sleep) for sleep in sleeps]
    digest = "ab" * 32

    def client(message: Message, context: Any) -> Message:
        update = unpack(message.content, bundle_digest=digest, size=parameters)
        content = pack(update.theta, bundle_digest=digest, round_number=update.round, metrics={EXAMPLES: 1})
        return Message(content, reply_to=message)

    settings = RoundSettings(rounds, min_nodes=len(sleeps))
    server = make_server_app(
        np.zeros(parameters, np.float32), digest, settings, on_round=lambda record, _: seconds.append(record["seconds"])
    )
    run_local(server, client, len(sleeps), fleet=Fleet(devices, server_s=server_s))
    return seconds


if __name__ == "__main__":
    main()
