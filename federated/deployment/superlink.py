"""A federation's server: a SuperLink with safe defaults, and what its operator asks of it.

It listens on a loopback address unless told otherwise, speaks TLS, and lets in the devices whose keys are registered.
Its folder holds all there is: certificates in `tls`, Flower's database, the connection of `flwr`, logs, and a folder
for each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError, FederationError
from federated.compat import control
from federated.compat.fleet import public_bytes
from federated.deployment.certificates import CA, CERTIFICATE, KEY, expiry
from federated.deployment.programs import Programs, environment, write_toml
from federated.node.identity import Identity
from federated.node.link import Link, LinkError, RefusedError, trust

APP = Path(__file__).parent / "app"  # the Flower App folder that `flwr run` packs
LINK = "edgessl"  # the connection's name in Flower's config.toml
_SETTINGS = "server.json"
_START_SECONDS = 60.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


@dataclass(frozen=True)
class Server:
    """Where a SuperLink lives and how it is reached; `tls` is a folder of `federate certs`, None for plain HTTP."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 9092
    tls: Path | None = None

    @property
    def address(self) -> str:
        """host:port for this machine's own programs."""
        return f"{_EVERYWHERE.get(self.host, self.host)}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether it listens for this machine alone."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    def command(self) -> list[str]:
        """The command line of Flower's SuperLink; ConfigError for a certificate that is missing or has expired."""
        command = ["flower-superlink", "--host", self.host, "--port", str(self.port)]
        command += ["--database", str(self.folder / "superlink.db")]
        if self.tls is None:
            return [*command, "--insecure"]
        if (end := expiry(self.tls / CERTIFICATE)) < datetime.now(UTC):
            raise ConfigError(f"{self.tls / CERTIFICATE}: expired {end:%Y-%m-%d}; edgessl federate certs renews it")
        files = {"--ssl-ca-certfile": CA, "--ssl-certfile": CERTIFICATE, "--ssl-keyfile": KEY}
        command += [part for option, name in files.items() for part in (option, str(self.tls / name))]
        return [*command, "--enable-supernode-auth"]

    def write(self) -> None:
        """Write the folder: the settings that `read` finds, and Flower's connection to this server."""
        (self.folder / "flwr").mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        write_atomically(self.folder / _SETTINGS, json.dumps(settings, indent=1).encode())
        secure = "insecure = true" if self.tls is None else f"root-certificates = {json.dumps(str(self.tls / CA))}"
        link = f'[superlink]\ndefault = "{LINK}"\n[superlink.{LINK}]\naddress = "{self.address}"\n{secure}\n'
        write_atomically(self.folder / "flwr" / "config.toml", link.encode())

    @classmethod
    def read(cls, folder: Path) -> Server:
        """The server whose folder this is; ConfigError otherwise."""
        try:
            found = json.loads((folder / _SETTINGS).read_bytes())
            tls = None if found["tls"] is None else Path(found["tls"])
            return cls(folder.resolve(), str(found["host"]), int(found["port"]), tls)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{folder}: no folder of edgessl federate serve ({error})") from None

    def healthy(self) -> bool:
        """Whether it answers."""
        context = None if self.tls is None else ssl.create_default_context(cafile=str(self.tls / CA))
        handlers = [
            urllib.request.ProxyHandler({}),
            *([urllib.request.HTTPSHandler(context=context)] if context else []),
        ]
        scheme = "http" if context is None else "https"
        try:
            with urllib.request.build_opener(*handlers).open(f"{scheme}://{self.address}/health", timeout=2):
                return True
        except OSError:
            return False


class Operator:
    """Questions and orders to a running server; a context manager."""

    def __init__(self, server: Server) -> None:
        self.server = server
        key = ec.generate_private_key(ec.SECP256R1())  # the control API asks nobody who they are
        context = None if server.tls is None else trust(server.tls / CA)
        self._link = Link(server.address, Identity(key, public_bytes(key.public_key())), context)

    def register(self, keys: Iterable[Path]) -> tuple[dict[str, int], dict[str, str]]:
        """Let in the devices with these public key files.

        Returns by file name the numbers of those that were new, and why others were refused; a key that is registered
        already is in neither.
        """
        there = {device.public_key for device in self.devices()}
        new, refused = dict[str, int](), dict[str, str]()
        for path in keys:
            try:
                if (key := _public_key(path)) not in there:
                    new[path.stem] = self._link.call(control.register(key, path.stem))
            except (ConfigError, RefusedError) as error:
                refused[path.stem] = str(error)
        return new, refused

    def unregister(self, name: str) -> int:
        """Let the device with that name in no longer; its number. ConfigError when there is no such device."""
        for device in self.devices():
            if device.name == name:
                self._link.call(control.unregister(device.node))
                return device.node
        raise ConfigError(f"no device {name!r} is registered at {self.server.address}")

    def devices(self) -> list[control.Registered]:
        """The devices that are let in."""
        return self._link.call(control.devices(), answer_bytes=64 << 20)

    def submit(self, name: str, config: Mapping[str, object]) -> int:
        """Start a run of edgessl's app with this run_config, kept in the folder `name`; its number."""
        folder = self.server.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        write_toml(folder / "run.toml", config)
        env = environment(self.server.folder / "flwr")
        with Programs(env, self.server.folder / "logs", 120.0) as programs:
            answer = programs.call("flwr", "run", str(APP), LINK, "--run-config", str(folder / "run.toml"))
        return int(answer["run-id"])

    def status(self, run: int) -> control.RunStatus:
        """How a run is; FederationError for one that the server does not know."""
        found = self._link.call(control.run_status(run))
        if found is None:
            raise FederationError(f"{self.server.address} knows no run {run}")
        return found

    def wait(self, run: int, *, every: float = 2.0, patience: float = 300.0, keep_on: Callable[[], bool]) -> None:
        """Until the run has completed; FederationError, with the reason, when it ends any other way.

        A server that does not answer is waited for `patience` seconds; `keep_on` is asked before every look, and the
        wait ends when it says no.
        """
        silent = time.monotonic()
        while keep_on():
            try:
                found = self.status(run)
                silent = time.monotonic()
            except LinkError as error:
                if time.monotonic() - silent > patience:
                    raise FederationError(f"run {run}: the server is away for {patience:g} s: {error}") from None
            else:
                if found.status == control.COMPLETED:
                    return
                if found.over:
                    raise FederationError(f"run {run} is {found.status}: {found.details or 'no reason given'}")
            time.sleep(every)

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *exc: object) -> None:
        self._link.close()


@contextlib.contextmanager
def running(server: Server) -> Iterator[Programs]:
    """The SuperLink, started and answering; stopped at the end. What an earlier one left behind is ended first."""
    server.write()
    home = server.folder / "flwr"
    end_leftovers(home)
    with Programs(environment(home), server.folder / "logs", _START_SECONDS) as programs:
        programs.start("superlink", *server.command())
        programs.wait(server.healthy, "the SuperLink to answer", every=0.2)
        yield programs


def end_leftovers(home: Path) -> list[int]:
    """Kill what a SuperLink with this FLWR_HOME left behind when it was killed: two ServerApps must not share a state.

    Read from /proc; where there is none (not Linux) nothing is found.
    """
    mark = b"FLWR_HOME=" + os.fsencode(home.resolve())
    ended = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0") and int(environ.parent.name) != os.getpid():
                os.kill(int(environ.parent.name), signal.SIGKILL)
                ended.append(int(environ.parent.name))
    return ended


def _public_key(path: Path) -> bytes:
    try:
        key = load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path}: expected the .pub file of edgessl federate keys (an OpenSSH ECDSA key)")
    return public_bytes(key)
