"""Level C: a real SuperLink with TLS and registered keys, and lean nodes, each a process that really learns."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgessl.bench.device.bundles import checkpoint
from edgessl.bench.federated.node import BATCH, LOCAL_STEPS, MEMORY_BYTES, RATE, SAMPLES, memory, online
from edgessl.device import Bundle
from export import export_bundle
from export.parity import random_fields
from federated import FederationResult
from federated.deployment import certificates
from federated.deployment.programs import Programs, environment, free_port
from federated.deployment.superlink import Operator, Server, running
from federated.node import Identity

_LIMIT = 900.0  # seconds for the nodes to join, and for the rounds
_POLL = ("1", "5")  # shortest and longest wait of a node between two looks for a message


def measure(clients: int, rounds: int, encoder: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """One row: `rounds` rounds of `clients` lean nodes that learn on random fields, samples of their own each."""
    with TemporaryDirectory(prefix="edgessl-wire-") as name:
        folder = Path(name)
        made, bundle = checkpoint(encoder), folder / "full.edgessl"
        fields = random_fields(made.input, SAMPLES, 0)
        export_bundle(made, bundle, calibration=fields[:64], batch_size=BATCH, hyper={"lr": RATE})
        server = Server(folder / "server", port=free_port(), tls=folder / "tls")
        certificates.create_authority(folder / "tls")
        certificates.issue_server(folder / "tls", [])
        names = [f"d{i}" for i in range(clients)]
        (folder / "logs").mkdir()
        for i, key in enumerate(names):
            Identity.create(folder / key)
            np.save(folder / f"{key}.npy", random_fields(made.input, SAMPLES, i + 1))
        with running(server) as superlink, Operator(server) as operator:
            operator.register([folder / f"{key}.pub" for key in names])
            with Programs(environment(folder / "flwr"), folder / "logs", _LIMIT) as nodes:
                for i, key in enumerate(names):
                    _join(nodes, key, i, folder, bundle, server.address)
                nodes.wait(lambda: online(operator) == clients, f"{clients} nodes to join", every=1.0)
                progress(f"{clients} nodes joined")
                config: dict[str, object] = {"bundle": str(bundle), "save-to": str(folder / "fleet.safetensors")}
                config |= {"rounds": rounds, "min-nodes": clients, "local-steps": LOCAL_STEPS}
                with _watched(superlink, nodes, names) as peaks:
                    run = operator.submit("bench", config)
                    operator.wait(run, keep_on=lambda: True)
        result = FederationResult.load(folder / "fleet.safetensors", Bundle.open(bundle).digest)
    return {
        **row(result, clients, clients),
        "rounds": rounds,
        "server_peak_rss_mb": peaks["server"],
        "node_peak_rss_mb": peaks["node"],
    }


def row(result: FederationResult, asked: int, registered: int) -> dict[str, Any]:
    """A row of level C: what the rounds of `result` say, `asked` of `registered` nodes taking part in each."""
    times = [record["seconds"] for record in result.rounds]
    messages = sum(record["clients"] for record in result.rounds)
    reasons = Counter(why for record in result.rounds for why in record["failures"].values())
    p50, p95 = (round(float(np.percentile(times, q)), 2) for q in (50, 95))
    return {
        "level": "C",
        "clients": asked,
        "registered": registered,
        "parameters": len(result.theta),
        "seconds": p50,
        "p50_s": p50,
        "p95_s": p95,
        "round_seconds": [round(t, 2) for t in times],
        "updates_per_second": round(messages / sum(times), 2),
        "bytes_up_per_update": sum(record["bytes_up"] for record in result.rounds) // max(1, messages),
        "bytes_down_per_update": sum(record["bytes_down"] for record in result.rounds) // max(1, messages),
        "failures": reasons.total(),
        "reasons": dict(reasons),
        "reminded": sum(record["reminded"] for record in result.rounds),
    }


def _join(nodes: Programs, key: str, seed: int, folder: Path, bundle: Path, address: str) -> None:
    where = ("--server", address, "--ca", str(folder / "tls" / "ca.crt"), "--key", str(folder / key))
    own = ["--state", str(folder / f"state-{key}"), "--stream", str(folder / f"{key}.npy"), "--seed", str(seed)]
    own += ["--memory", str(MEMORY_BYTES), "--local-steps", str(LOCAL_STEPS), "--poll", *_POLL]
    nodes.start(key, "python", "-m", "edgessl", "federate", "join", str(bundle), *where, *own)


@contextlib.contextmanager
def _watched(superlink: Programs, nodes: Programs, names: list[str]) -> Iterator[dict[str, int]]:
    """The largest RSS in MB of the server's processes together, and of any one node, looked at twice a second."""
    peaks, over = {"server": 0, "node": 0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peaks["server"] = max(peaks["server"], memory(superlink.group("superlink"))["rss"])
            peaks["node"] = max(peaks["node"], *(memory(nodes.group(name))["rss"] for name in names))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()
