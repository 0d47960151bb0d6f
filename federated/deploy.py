"""A real Flower deployment on this machine: SuperLink, SuperNodes and a run, over loopback."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from edgessl.device import Bundle
from edgessl.errors import FederationError, MissingDependencyError
from federated import compat
from federated.result import FederationResult

APP = Path(__file__).parent / "app"  # the Flower App folder that `flwr run` packs
_TAIL_LINES = 15
_LINK = "loopback"


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


def run_loopback(
    bundle_path: Path,
    streams: Sequence[Path],
    *,
    rounds: int,
    local_steps: int,
    workdir: Path,
    port: int | None = None,
    seed: int = 0,
    memory_bytes: int = 4 << 20,
    timeout: float = 300.0,
) -> FederationResult:
    """Run a federation of one SuperNode per stream (.npy files of float32 samples) and return its result.

    Plain HTTP on 127.0.0.1:`port` (a free one by default): for tests and demonstrations, not for a network.
    `workdir` receives the nodes' state (node-0, node-1 ...), `theta.safetensors` and `logs`. Raises
    FederationError with the end of the logs when a program dies, the run fails, or `timeout` seconds pass;
    whatever was started is stopped in every case.
    """
    bundle, workdir = Bundle.open(bundle_path), workdir.resolve()
    port, final = port or free_port(), workdir / "theta.safetensors"
    home, logs = workdir / "flwr", workdir / "logs"
    for folder in (home, logs):
        folder.mkdir(parents=True, exist_ok=True)
    final.unlink(missing_ok=True)
    address = f"127.0.0.1:{port}"
    link = f'[superlink]\ndefault = "{_LINK}"\n[superlink.{_LINK}]\naddress = "{address}"\ninsecure = true\n'
    (home / "config.toml").write_text(link)
    shared = {"bundle": str(bundle_path.resolve())}
    run = {"save-to": str(final), "rounds": rounds, "local-steps": local_steps, "seed": seed}
    run |= {"min-nodes": len(streams), "round-timeout": timeout}
    _write_toml(workdir / "run.toml", shared | run)
    with _Programs(environment(home), logs, timeout) as programs:
        programs.start("superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port))
        programs.wait(lambda: _healthy(address), "the SuperLink to answer")
        for i, stream in enumerate(streams):
            node: dict[str, object] = {"state-dir": str(workdir / f"node-{i}"), "stream": str(stream.resolve())}
            limits = {"memory-bytes": memory_bytes, "seed": seed + i}
            _write_toml(config := workdir / f"node-{i}.toml", shared | node | limits)
            own = ("--port", str(free_port()), "--node-config", str(config))
            programs.start(f"supernode-{i}", "flower-supernode", "--insecure", "--superlink", address, *own)
        programs.call("flwr", "run", str(APP), _LINK, "--run-config", str(workdir / "run.toml"))
        programs.wait(lambda: _finished(programs), "the run to finish", every=3.0)
    return FederationResult.load(final, bundle.digest)


def free_port() -> int:
    """A TCP port that nobody listens on at 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Programs:
    """Programs with a log each, in process groups of their own, all stopped at the end."""

    def __init__(self, env: Mapping[str, str], logs: Path, timeout: float) -> None:
        self.env, self.logs, self.timeout = dict(env), logs, timeout
        self.grace = 10.0  # seconds to end by themselves
        self.deadline = time.monotonic() + timeout
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def start(self, name: str, *command: str) -> None:
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
        while not done():
            for name, process in self._running.items():
                if (code := process.poll()) is not None:
                    raise self.failure(f"{name} ended with code {code}")
            if time.monotonic() > self.deadline:
                raise self.failure(f"waited {self.timeout:g} s in all, last for {what}")
            time.sleep(every)

    def failure(self, what: str) -> FederationError:
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

    def __enter__(self) -> "_Programs":
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
    """The process groups of `roots` and of all their descendants: the SuperLink detaches one of its children.

    Read from /proc; where there is none (not Linux) the roots' own groups.
    """
    table = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            table.append((int(stat.parent.name), int(fields[1]), int(fields[2])))
    family, before = set(roots), 0
    while len(family) > before:
        before = len(family)
        family |= {pid for pid, parent, _ in table if parent in family}
    return roots | {group for pid, _, group in table if pid in family}


def _healthy(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/health", timeout=2):
            return True
    except OSError:
        return False


def _finished(programs: _Programs) -> bool:
    """Whether the run completed; FederationError when it failed (`flwr run` itself exits 0 even then)."""
    (run,) = programs.call("flwr", "list", _LINK)["runs"]
    if run["status"].startswith("finished") and run["status"] != "finished:completed":
        raise programs.failure(f"the run is {run['status']}: {run['status-details']}")
    return bool(run["status"] == "finished:completed")


def _write_toml(path: Path, values: Mapping[str, object]) -> None:
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
