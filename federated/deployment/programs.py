"""Other programs, Flower's above all: started, watched, called and stopped, whatever happens."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from edgessl.errors import FederationError, MissingDependencyError
from federated import compat

_TAIL_LINES = 15


def environment(home: Path) -> dict[str, str]:
    """The environment for Flower's programs: `home` for its files, nothing that reaches for the internet."""
    compat.check_version()
    scripts = os.path.dirname(sys.executable)
    return os.environ | {
        "PATH": os.pathsep.join((scripts, os.environ.get("PATH", ""))),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # 1 s by default, on both sides of every message
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A TCP port that nobody listens on at 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Programs:
    """Programs with a log each, in process groups of their own, all stopped at the end."""

    def __init__(self, env: Mapping[str, str], logs: Path, timeout: float) -> None:
        self.env, self.logs, self.timeout = dict(env), logs, timeout
        self.grace = 10.0  # seconds to end by themselves
        self.deadline = time.monotonic() + timeout
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def start(self, name: str, *command: str) -> None:
        """Start `command` in a session of its own, its output in the log file `name`."""
        log = open(self.logs / f"{name}.log", "wb")  # noqa: SIM115  (closed by __exit__)
        self._files.append(log)
        self._running[name] = subprocess.Popen(
            self._resolved(command),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def call(self, *command: str) -> Any:
        """Run a command of Flower's CLI to its end and return the JSON it prints."""
        left = max(1.0, self.deadline - time.monotonic())
        try:
            done = subprocess.run(
                [*self._resolved(command), "--format", "json"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=left,
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise self.failure(f"{' '.join(command[:2])} did not end within {left:.0f} s") from None
        except ValueError:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise self.failure(f"{' '.join(command[:2])} gave no JSON but {said!r}") from None
        if not answer.get("success"):
            raise self.failure(f"{' '.join(command[:2])} failed: {answer}")
        return answer

    def wait(self, done: Callable[[], bool], what: str, every: float = 0.5) -> None:
        """Until `done`; FederationError when a program ends or time is up, with what was waited for."""
        while not done():
            self.check()
            if time.monotonic() > self.deadline:
                raise self.failure(f"waited {self.timeout:g} s in all, last for {what}")
            time.sleep(every)

    def group(self, name: str) -> set[int]:
        """The processes of the program `name`, its children's children included (Linux; elsewhere itself alone)."""
        return _family({self._running[name].pid})

    def wait_for(self, name: str) -> None:
        """Until the program `name` has ended well; FederationError when it fails, another ends, or time is up."""
        process = self._running.pop(name)
        try:
            self.wait(lambda: process.poll() is not None, f"{name} to end")
        finally:
            self._running[name] = process
        if process.returncode:
            raise self.failure(f"{name} ended with code {process.returncode}")

    def check(self) -> None:
        """FederationError when one of them ended by itself."""
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                raise self.failure(f"{name} ended with code {code}")

    def failure(self, what: str) -> FederationError:
        """The error that says `what` and shows the end of every log."""
        tails = [f"{what}; logs are in {self.logs}"]
        for name in self._running:
            lines = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()
            tails.append("\n".join([f"--- {name}", *lines[-_TAIL_LINES:]]))
        return FederationError("\n".join(tails))

    def _resolved(self, command: Sequence[str]) -> list[str]:
        program = shutil.which(command[0], path=self.env["PATH"])
        if program is None:
            raise MissingDependencyError(f"{command[0]} not found; pip install 'edgessl[federated]' brings it")
        return [program, *command[1:]]

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *exc: object) -> None:
        groups = _groups_below({process.pid for process in self._running.values()})
        for process in reversed(self._running.values()):  # nodes first: they say goodbye to the SuperLink
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + self.grace
        for process in self._running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for file in self._files:
            file.close()


def _groups_below(roots: set[int]) -> set[int]:
    """The process groups of `roots` and of all their descendants: the SuperLink detaches one of its children."""
    family = _family(roots)
    return roots | {group for pid, _, group in _processes() if pid in family}


def _family(roots: set[int]) -> set[int]:
    """`roots` and all their descendants."""
    table = _processes()
    family, before = set(roots), 0
    while len(family) > before:
        before = len(family)
        family |= {pid for pid, parent, _ in table if parent in family}
    return family


def _processes() -> list[tuple[int, int, int]]:
    """Every process, its parent and its group, from /proc; none where there is no such thing (not Linux)."""
    table = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            table.append((int(stat.parent.name), int(fields[1]), int(fields[2])))
    return table


def write_toml(path: Path, values: Mapping[str, object]) -> None:
    """Write Flower's kind of configuration: a value per key."""
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
