"""The wire of the lean node: signed HTTP POSTs over one connection that is kept while the server keeps it."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from edgessl.errors import ConfigError, FederationError
from federated.compat.fleet import Call, error_code, sign
from federated.node.identity import Identity

ANSWER_BYTES = 1 << 18  # of a call that carries no object
_CONNECT_SECONDS = 20.0
_PIECE = 1 << 15
_LATER = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class LinkError(FederationError):
    """The SuperLink cannot be reached, or not now: try again later."""


class RefusedError(FederationError):
    """The SuperLink answered and said no; `code` is Flower's number for the reason, 0 if it gave none."""

    def __init__(self, message: str, status: int, code: int) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Link:
    """A connection to one SuperLink, "host:port"; safe to share between threads, which take turns.

    `tls` is None for plain HTTP, which proves nothing to anybody: the signature covers the time alone, so whoever
    sits on a plain link can read and replace every message. `timeout` in seconds bounds each wait for the network.
    """

    def __init__(self, server: str, identity: Identity, tls: ssl.SSLContext | None, timeout: float = 30.0) -> None:
        self.server, self.identity, self.tls, self.timeout = server, identity, tls, timeout
        self._host, self._port = _address(server)
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._session: ssl.SSLSession | None = None  # resumes TLS without sending certificates again

    def call(self, call: Call[T], answer_bytes: int = ANSWER_BYTES) -> T:
        """Post and return what the answer says; LinkError (try later), RefusedError, FederationError (nonsense)."""
        with self._lock:
            try:
                status, body = self._post(call.path, call.body, answer_bytes)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                raise LinkError(f"{self.server}: {_reason(error)}") from None
            except BaseException:
                self._drop()
                raise
        if status == 200:
            return call.read(body)
        code, words = error_code(body)
        what = f"{self.server}: {call.path.rpartition('/')[2]}: HTTP {status} {words}".rstrip()
        if status in _LATER:
            raise LinkError(what)
        raise RefusedError(what, status, code)

    def close(self) -> None:
        """Close the connection; a later call opens another one."""
        with self._lock:
            self._drop()

    def _post(self, path: str, body: bytes, limit: int) -> tuple[int, bytes]:
        if self._connection is not None and _hung_up(self._connection.sock):
            self._drop()
        if self._connection is None:
            self._connection = self._connect()
        headers = sign(self.identity.key, self.identity.public_key) | {"content-length": str(len(body))}
        self._connection.request("POST", path, _pieces(body), headers)
        response = self._connection.getresponse()
        data = response.read(limit + 1)
        if len(data) > limit:
            raise FederationError(f"{path}: an answer of more than {limit} bytes, the most that is accepted here")
        if isinstance(self._connection.sock, ssl.SSLSocket):
            self._session = self._connection.sock.session
        if response.will_close:
            self._drop()
        return response.status, data

    def _connect(self) -> http.client.HTTPConnection:
        sock = socket.create_connection((self._host, self._port), min(self.timeout, _CONNECT_SECONDS))
        try:
            sock.settimeout(self.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_hostname=self._host, session=self._session)
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)
        connection.sock = sock
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def trust(ca: str | Path) -> ssl.SSLContext:
    """TLS 1.2 or later that trusts the certificates of the file `ca` and no others; ConfigError otherwise."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: no PEM file of certificates to trust: {error}") from None
    return context


def _address(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"server {server!r}: expected HOST:PORT, as in fleet.example.org:443")
    return host.strip("[]"), int(port)


def _pieces(body: bytes) -> Iterator[memoryview]:
    """In pieces, each with the whole timeout to itself: one sendall of megabytes would have it only once."""
    view = memoryview(body)
    for i in range(0, len(view), _PIECE):
        yield view[i : i + _PIECE]


def _hung_up(sock: socket.socket | None) -> bool:
    """Whether the other end closed an idle connection: there is something to read although nothing was asked."""
    if sock is None:
        return True
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([sock], [], [], 0)[0])
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {error.verify_message}; check the server's certificate, the CA file "
            "given here, and this device's clock"
        )
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "the connection was cut before the answer was whole"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
