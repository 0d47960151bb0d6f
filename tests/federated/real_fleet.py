"""A real federation for tests: `edgessl federate serve` and `join` as processes, a proxy."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from federated.deployment import certificates
from federated.deployment.programs import free_port
from federated.deployment.proxy import Proxy
from federated.node.identity import Identity

EDGESSL = [sys.executable, "-m", "edgessl"]
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Process:
    """A program with its output in a file; `events` are the JSON lines among it."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log, self.command = log, command
        self._file = open(log, "ab")  # noqa: SIM115  (closed by stop)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        found = []
        for line in self.text.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [e for e in found if isinstance(e, dict) and name in ("", e.get("event"))]

    def memory(self) -> dict[str, int]:
        """RSS now and at most, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return {name: round(kb / 1024) for name, kb in found.items()}

    def kill(self) -> None:
        """As a power cut does: everything in its session, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._file.close()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self._file.close()
        return self.process.returncode


class Fleet:
    """A server folder, keys and certificates, and the processes that were started; stops them all at the end."""

    def __init__(self, folder: Path, bundle: Path, *, devices: int = 2) -> None:
        self.folder, self.bundle, self.port = folder, bundle, free_port()
        self.tls, self.keys, self.server = folder / "tls", folder / "keys", folder / "server"
        folder.mkdir(exist_ok=True)
        certificates.create_authority(self.tls)
        certificates.issue_server(self.tls, [])
        self.keys.mkdir()
        for i in range(devices):
            Identity.create(self.keys / f"d{i}")
        self.started: list[Process] = []

    def serve(self, *options: str) -> Process:
        return self._start(
            "serve.log",
            *(*EDGESSL, "federate", "serve", str(self.server), "--tls", str(self.tls), "--devices", str(self.keys)),
            *("--port", str(self.port), *options),
        )

    def join(self, i: int, *options: str, server: str = "", key: Path | None = None) -> Process:
        return self._start(
            f"d{i}.log",
            *(*EDGESSL, "federate", "join", str(self.bundle), "--server", server or f"127.0.0.1:{self.port}"),
            *("--ca", str(self.tls / "ca.crt"), "--key", str(key or self.keys / f"d{i}")),
            *("--state", str(self.folder / f"state-{i}"), "--seed", str(i), "--json", *options),
        )

    def ready(self, serve: Process) -> None:
        wait(lambda: "ready" in serve.text, "the server", serve)

    def _start(self, log: str, *command: str) -> Process:
        self.started.append(Process(self.folder / log, *command))
        return self.started[-1]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self.started):
            process.stop()


def wait(done: Callable[[], Any], what: str, *needed: Process, seconds: float = 90.0) -> Any:
    """What `done` returns once it is true; an error with the logs when time is up or a needed process ends."""
    until = time.monotonic() + seconds
    while not (found := done()):
        over = [p for p in needed if p.process.poll() is not None]
        if over or time.monotonic() > until:
            logs = "\n".join(f"--- {p.log}\n{p.text[-3000:]}" for p in needed)
            raise AssertionError(f"waited for {what}; ended: {[p.log.name for p in over]}\n{logs}")
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def nginx(folder: Path, proxy: Proxy) -> Iterator[None]:
    """A real nginx with the generated configuration, in the foreground of its own folder."""
    assert NGINX is not None
    folder.mkdir()
    (folder / "site.conf").write_text(proxy.nginx())
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""  # the test's folders are its own
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\n    access_log {folder}/access.log;\n{temporary}    include {folder}/site.conf;\n}}\n"
    )
    process = Process(folder / "out.log", NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"))
    try:
        port = int(proxy.listen.rpartition(":")[2])
        wait(lambda: _listens(port), "nginx", process, seconds=20)
        yield
    finally:
        process.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
