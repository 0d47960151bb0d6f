"""The node's wire over real sockets: TLS and whom it trusts, what is too large, what is worth another try."""

from __future__ import annotations

import base64
import http.server
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.proto import fleet_pb2

from edgessl.errors import ConfigError, FederationError
from federated.compat import fleet
from federated.deployment import certificates
from federated.node import Identity, Link, LinkError, RefusedError, trust


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, dict(self.headers), self.connection))
        status, body = self.server.answers.pop(0) if self.server.answers else (200, b"")
        if status is None:  # the other end goes away
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificates.create_authority(folder)
    certificates.issue_server(folder, ["fleet.example.org"])
    return folder


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return Identity.create(tmp_path_factory.mktemp("key") / "d0")


@pytest.fixture
def serve(tls):
    """serve(folder): an HTTPS server with that folder's certificate; plain HTTP for None."""
    running = []

    def start(folder=tls):
        server = http.server.ThreadingHTTPServer(("", 0), Handler)
        server.answers, server.seen = [], []
        server.handle_error = lambda *_: None
        if folder is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / certificates.CERTIFICATE, folder / certificates.KEY)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        server.address = f"127.0.0.1:{server.server_port}"
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def link(identity, tls):
    made = []

    def build(server, context=tls):
        found = None if context is None else trust(context / certificates.CA)
        made.append(Link(server.address, identity, found, timeout=5.0))
        return made[-1]

    yield build
    for each in made:
        each.close()


JOINED = fleet_pb2.ActivateNodeResponse(node_id=2**63 + 1).SerializeToString()


def test_a_call_is_signed_with_the_key_and_the_time_over_one_connection(serve, link, identity):
    server = serve()
    server.answers = [(200, JOINED), (200, JOINED)]
    wire = link(server)
    call = fleet.activate(identity.public_key, 30.0)
    assert [wire.call(call), wire.call(call)] == [2**63 + 1] * 2
    (path, headers, first), (_, _, second) = server.seen
    assert path == "/v1/fleet/activate-node"
    assert first is second
    public = load_pem_public_key(base64.b64decode(headers["flwr-public-key"]))
    signature = base64.b64decode(headers["flwr-signature"])
    stamp = headers["flwr-timestamp"]
    public.verify(signature, stamp.encode(), ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, stamp.replace("T", " ").encode(), ec.ECDSA(hashes.SHA256()))
    assert abs((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()) < 60


def test_a_server_that_hung_up_is_called_anew(serve, link, identity):
    server = serve()
    server.answers = [(200, JOINED), (None, b""), (200, JOINED)]
    wire, call = link(server), fleet.activate(identity.public_key, 30.0)
    wire.call(call)
    with pytest.raises(LinkError, match="cut before the answer was whole"):
        wire.call(call)
    assert wire.call(call) == 2**63 + 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_at_the_server_is_for_later(serve, link, identity, status):
    server = serve(None)
    server.answers = [(status, b"<html>busy</html>")]
    with pytest.raises(LinkError, match=f"heartbeat: HTTP {status}$"):
        link(server, None).call(fleet.beat(1, 30.0))


def test_a_refusal_has_flowers_number_and_words(serve, link, identity):
    server = serve(None)
    server.answers = [(412, b'{"code": 2004, "detail": "Failed to activate SuperNode."}'), (401, b"no JSON")]
    wire = link(server, None)
    with pytest.raises(RefusedError, match=r"activate-node: HTTP 412 Failed to activate SuperNode") as caught:
        wire.call(fleet.activate(b"", 30.0))
    assert (caught.value.status, caught.value.code) == (412, 2004)
    with pytest.raises(RefusedError) as caught:
        wire.call(fleet.activate(b"", 30.0))
    assert (caught.value.status, caught.value.code) == (401, 0)


def test_an_answer_that_is_too_large_or_nonsense_is_refused(serve, link):
    server = serve(None)
    server.answers = [(200, b"\0" * (1 << 19)), (200, b"\xff\xff\xff"), (302, b"")]
    wire = link(server, None)
    with pytest.raises(FederationError, match="an answer of more than 262144 bytes"):
        wire.call(fleet.pull(1))
    with pytest.raises(FederationError, match="no answer of a SuperLink"):
        wire.call(fleet.pull(1))
    with pytest.raises(RefusedError, match="HTTP 302"):  # nobody is followed anywhere
        wire.call(fleet.pull(1))


def test_a_slow_link_has_the_timeout_for_each_piece_and_a_dead_one_fails(serve, identity, monkeypatch):
    server = serve(None)
    monkeypatch.setattr("federated.node.link._PIECE", 1 << 12)
    pieces = []

    class Slow:
        """A socket whose every send takes as long as the link gives it, but not the sum of two."""

        def __init__(self, sock):
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def sendall(self, data):
            pieces.append(len(data))
            if len(data) > 1 << 12:
                raise TimeoutError("timed out")
            self._sock.sendall(data)

    wire = Link(server.address, identity, None, 5.0)
    connect = wire._connect

    def slow():
        connection = connect()
        connection.sock = Slow(connection.sock)
        return connection

    monkeypatch.setattr(wire, "_connect", slow)
    wire.call(fleet.push_object(1, 1, "s", "n", bytes(3 << 12)))
    assert len(pieces) > 3
    monkeypatch.setattr("federated.node.link._PIECE", 1 << 13)
    with pytest.raises(LinkError, match="timed out"):
        wire.call(fleet.push_object(1, 1, "s", "n", bytes(3 << 12)))
    wire.close()


def test_an_expired_certificate_is_named_and_nothing_is_sent(serve, link, tmp_path):
    certificates.create_authority(tmp_path)
    end = certificates.issue_server(tmp_path, [], days=1, earlier=timedelta(days=3))
    assert end < datetime.now(UTC)
    server = serve(tmp_path)
    with pytest.raises(LinkError, match=r"certificate has expired; check .* this device's clock"):
        link(server, tmp_path).call(fleet.pull(1))
    assert server.seen == []


def test_a_certificate_of_another_ca_or_name_is_refused(serve, link, tls, tmp_path):
    certificates.create_authority(tmp_path)
    server = serve(tls)
    with pytest.raises(LinkError, match="certificate is not accepted"):
        link(server, tmp_path).call(fleet.pull(1))
    other = link(server, tls)
    other._host = "127.0.0.2"  # reaches the same server, under a name that its certificate does not have
    with pytest.raises(LinkError, match=r"certificate is not valid for '127\.0\.0\.2'"):
        other.call(fleet.pull(1))
    assert server.seen == []


def test_plain_http_to_tls_and_back_is_for_later(serve, link, identity):
    with pytest.raises(LinkError):
        link(serve(None)).call(fleet.pull(1))
    with pytest.raises(LinkError):
        link(serve(), None).call(fleet.pull(1))


@pytest.mark.parametrize("server", ["fleet.example.org", "fleet:", ":1", "fleet:0", "fleet:x", "https://f:443/x"])
def test_an_address_needs_host_and_port(identity, server):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Link(server, identity, None)


class TestIdentity:
    def test_a_pair_is_written_once_for_its_owner_alone(self, tmp_path):
        made = Identity.create(tmp_path / "d1")
        assert stat.S_IMODE((tmp_path / "d1").stat().st_mode) == 0o600
        assert Identity.read(tmp_path / "d1").public_key == made.public_key
        assert (tmp_path / "d1.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
        with pytest.raises(ConfigError, match="exists already"):
            Identity.create(tmp_path / "d1")

    def test_a_key_others_can_read_is_refused(self, tmp_path):
        Identity.create(tmp_path / "d1")
        (tmp_path / "d1").chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            Identity.read(tmp_path / "d1")

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"])
    def test_no_key_is_an_error(self, tmp_path, content):
        (tmp_path / "k").write_bytes(content)
        (tmp_path / "k").chmod(0o600)
        with pytest.raises(ConfigError, match="no unencrypted private key"):
            Identity.read(tmp_path / "k")
        with pytest.raises(ConfigError, match="federate keys makes one"):
            Identity.read(tmp_path / "none")
