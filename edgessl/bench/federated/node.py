"""What a device pays for being in a fleet: the lean node beside Flower's own SuperNode, on a real server with TLS.

All are idle first, each one's relay counting every byte of TLS, and then learn rounds: of the whole model, or, the lean
node once more, of what lies behind a cut. Memory is that of all processes of a node (the SuperNode starts one for each
message): as a whole (RSS), shared pages counted in proportion (PSS), and what is in no file, which the kernel cannot
take back (anonymous).
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgessl.bench.device.bundles import checkpoint
from edgessl.bench.federated.cable import Cable
from edgessl.bench.results import keep
from edgessl.device import Bundle
from edgessl.machine import machine, versions
from export import export_bundle
from export.parity import random_fields
from federated import FederationResult
from federated.deployment import certificates
from federated.deployment.programs import Programs, environment, free_port, write_toml
from federated.deployment.superlink import Operator, Server, running
from federated.node import Identity

SAMPLES, MEMORY_BYTES = 256, 1 << 20
LOCAL_STEPS, BATCH, LATENT_BATCH = 16, 32, 16
RATE = 1e-4  # small: fresh weights on meaningless samples must not collapse before the end
DAY = 86_400
_LIMIT = 600.0  # seconds for each phase
_KINDS = ("rss", "pss", "anonymous")

Start = Callable[[Programs, str, int], None]


def run(
    seconds: float = 240.0,
    rounds: int = 4,
    encoder: str = "cnn1d",
    cut: str = "block2",
    *,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure the nodes; takes `seconds` of silence and then the rounds.

    Node "latent" is the lean one with a bundle cut at the encoder's stage `cut`, and batches half as large. A lean node
    looks for messages at its slowest default pace, every 60 s; the SuperNode does every 3 s.
    """
    settings = {"seconds": seconds, "rounds": rounds, "encoder": encoder, "cut": cut}
    with TemporaryDirectory() as name:
        folder = Path(name)
        made, full, latent = checkpoint(encoder), folder / "full.edgessl", folder / "latent.edgessl"
        fields = random_fields(made.input, SAMPLES, 0)
        few, hyper = fields[:64], {"lr": RATE}
        export_bundle(made, full, calibration=few, batch_size=BATCH, hyper=hyper)
        export_bundle(made, latent, calibration=few, batch_size=LATENT_BATCH, hyper=hyper, cut=cut)
        np.save(folder / "stream.npy", fields)
        rows = _measure(folder, {"lean": full, "latent": latent, "SuperNode": full}, seconds, rounds, progress)
    result = {
        "bench": "federated_node",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "rows": rows,
    }
    keep(out, result)
    return result


def _measure(
    folder: Path, bundles: dict[str, Path], seconds: float, rounds: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    server = Server(folder / "server", port=free_port(), tls=folder / "tls")
    certificates.create_authority(folder / "tls")
    certificates.issue_server(folder / "tls", [])
    lean_nodes = {name: bundle for name, bundle in bundles.items() if name != "SuperNode"}
    stock = {"SuperNode": supernode(folder, bundles["SuperNode"])}
    idle = {name: lean(folder, bundle, name, "--poll", "60", "60") for name, bundle in lean_nodes.items()} | stock
    at_work = {name: lean(folder, bundle, name, "--poll", "0.5", "5") for name, bundle in lean_nodes.items()} | stock
    for name in bundles:
        Identity.create(folder / name)
    with running(server), Operator(server) as operator:
        operator.register([folder / f"{name}.pub" for name in bundles])
        rows: dict[str, dict[str, Any]] = {name: {"node": name} for name in bundles}
        with _nodes(folder, server, operator, idle) as (cables, programs):
            time.sleep(10.0)  # joined, and done with what a start costs
            before = {name: (cable.up, cable.down) for name, cable in cables.items()}
            progress(f"{len(cables)} nodes idle for {seconds:g} s")
            time.sleep(seconds)
            for name, cable in cables.items():
                up, down = cable.up - before[name][0], cable.down - before[name][1]
                rows[name] |= {"idle_bytes_up": up, "idle_bytes_down": down}
                rows[name] |= {"idle_mb_per_day": round((up + down) / seconds * DAY / 1e6, 2)}
                rows[name] |= {f"idle_{kind}_mb": mb for kind, mb in memory(programs.group(name)).items()}
        for name, start in at_work.items():  # alone each, so that each round's time is its own
            progress(f"{name}: {rounds} rounds")
            rows[name] |= _rounds(folder, server, operator, name, start, bundles[name], rounds)
    return list(rows.values())


def _rounds(
    folder: Path, server: Server, operator: Operator, name: str, start: Start, bundle: Path, rounds: int
) -> dict[str, Any]:
    """Memory at its peak and seconds of the rounds of a federation of one."""
    config: dict[str, object] = {"bundle": str(bundle), "save-to": str(folder / f"{name}.safetensors")}
    config |= {"rounds": rounds, "min-nodes": 1, "local-steps": LOCAL_STEPS}
    peak = dict.fromkeys(_KINDS, 0)
    over = threading.Event()
    with _nodes(folder, server, operator, {name: start}) as (_, programs):

        def watch() -> None:
            while not over.wait(0.1):
                for kind, mb in memory(programs.group(name)).items():
                    peak[kind] = max(peak[kind], mb)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            number = operator.submit(name, config)
            operator.wait(number, keep_on=lambda: True)
        finally:
            over.set()
            watcher.join()
    result = FederationResult.load(folder / f"{name}.safetensors", Bundle.open(bundle).digest)
    times = [record["seconds"] for record in result.rounds]
    return {f"learning_{kind}_mb": mb for kind, mb in peak.items()} | {
        "round_seconds": round(statistics.median(times[1:] or times), 2),
        "bytes_up_per_round": result.rounds[-1]["bytes_up"],
        "bytes_down_per_round": result.rounds[-1]["bytes_down"],
    }


@contextlib.contextmanager
def _nodes(
    folder: Path, server: Server, operator: Operator, starts: dict[str, Start]
) -> Iterator[tuple[dict[str, Cable], Programs]]:
    """The nodes behind a cable each, online; stopped, and offline, at the end."""
    cables = {name: Cable(server.port) for name in starts}
    with Programs(environment(folder / "flwr"), server.folder / "logs", _LIMIT) as programs:
        for name, start in starts.items():
            start(programs, name, cables[name].port)
        programs.wait(lambda: online(operator) == len(starts), "the nodes to join")
        yield cables, programs
    for cable in cables.values():
        cable.close()
    until = time.monotonic() + 90
    while online(operator) and time.monotonic() < until:
        time.sleep(1)


def online(operator: Operator) -> int:
    """How many registered devices the server sees."""
    return sum(device.status == "online" for device in operator.devices())


def lean(folder: Path, bundle: Path, key: str, *options: str) -> Start:
    """How a lean node with that key is started."""

    def start(programs: Programs, name: str, port: int) -> None:
        where = ("--server", f"127.0.0.1:{port}", "--ca", str(folder / "tls" / "ca.crt"), "--key", str(folder / key))
        own = ["--state", str(folder / f"state-{key}"), "--stream", str(folder / "stream.npy")]
        own += ["--memory", str(MEMORY_BYTES), "--local-steps", str(LOCAL_STEPS)]
        programs.start(name, sys.executable, "-m", "edgessl", "federate", "join", str(bundle), *where, *own, *options)

    return start


def supernode(folder: Path, bundle: Path) -> Start:
    """How Flower's SuperNode with edgessl's ClientApp is started."""

    def start(programs: Programs, name: str, port: int) -> None:
        own = {"bundle": str(bundle), "state-dir": str(folder / "state-stock"), "stream": str(folder / "stream.npy")}
        write_toml(folder / "node.toml", own | {"memory-bytes": MEMORY_BYTES})
        where = ("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(folder / "tls" / "ca.crt"))
        key = ("--auth-supernode-private-key", str(folder / "SuperNode"), "--port", str(free_port()))
        programs.start(name, "flower-supernode", *where, *key, "--node-config", str(folder / "node.toml"))

    return start


def memory(pids: set[int]) -> dict[str, int]:
    """The memory of these processes together in MB, by _KINDS."""
    found = dict.fromkeys(_KINDS, 0)
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                kind = line.split(":")[0].lower()
                if kind in found:
                    found[kind] += int(line.split()[1])
    return {kind: round(kb / 1024) for kind, kb in found.items()}
