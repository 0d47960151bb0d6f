"""The commands of a fleet's operator, short of starting servers (tests/federated/test_federated_outages.py does)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from federated.deployment.superlink import Server


@pytest.fixture
def tls(run, tmp_path: Path) -> Path:
    run("federate", "certs", tmp_path / "tls", "fleet.example.org")
    return tmp_path / "tls"


def test_certs_makes_what_is_missing_and_renews_the_rest(run, tls: Path) -> None:
    ca, server = (tls / "ca.crt").read_bytes(), (tls / "server.crt").read_bytes()
    said = run("federate", "certs", tls, "--days", 30).stdout
    assert "for every device" in said
    assert (tls / "ca.crt").read_bytes() == ca
    assert (tls / "server.crt").read_bytes() != server


def test_keys_are_made_once(run, tmp_path: Path) -> None:
    run("federate", "keys", tmp_path / "keys" / "a", tmp_path / "keys" / "b")
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["a", "a.pub", "b", "b.pub"]
    assert "exists already" in run("federate", "keys", tmp_path / "keys" / "a", expect=2).stderr


def test_proxy_prints_a_configuration_for_the_servers_folder(run, tls: Path, tmp_path: Path) -> None:
    Server(tmp_path / "server", port=9999, tls=tls).write()
    text = run("federate", "proxy", tmp_path / "server", "--name", "fleet.example.org", "--listen", "8443").stdout
    assert "listen 8443 ssl;" in text
    assert "server 127.0.0.1:9999;" in text
    assert f"ssl_certificate {tls / 'server.crt'};" in text
    assert f"proxy_ssl_trusted_certificate {tls / 'ca.crt'};" in text


def test_a_proxy_before_plain_http_is_refused(run, tmp_path: Path) -> None:
    Server(tmp_path / "server").write()
    assert "serve it with --tls" in run("federate", "proxy", tmp_path / "server", "--name", "x", expect=2).stderr


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("serve {tmp}/s", "--tls FOLDER"),
        ("serve {tmp}/s --tls t --insecure", "--insecure"),
        ("serve {tmp}/s --tls {tmp}/none", "none/server.crt: No such file"),
        ("run b --server {tmp}", "no folder of edgessl federate serve"),
        ("devices {tmp}", "no folder of edgessl federate serve"),
        ("join b --server h:1 --state s", "--ca and --key, or --insecure"),
        ("join b --server h:1 --state s --ca c", "--ca and --key, or --insecure"),
        ("join b --server h:1 --state s --insecure --ca c", "--ca and --key, or --insecure"),
    ],
)
def test_a_mistake_is_named(run, tmp_path: Path, line: str, named: str) -> None:
    found = run("federate", *line.format(tmp=tmp_path).split(), expect=2)
    assert named in found.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--window", "9-17"), "HH:MM-HH:MM"),
        (("--heartbeat", "1"), "heartbeat: 1 s"),
        ((), "none.edgessl"),
    ],
)
def test_a_devices_mistakes_are_named(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    """In a process of its own: `join` decides how Flower is loaded there."""
    where = ("--server", "127.0.0.1:1", "--insecure", "--state", str(tmp_path / "state"))
    command = (sys.executable, "-m", "edgessl", "federate", "join", str(tmp_path / "none.edgessl"), *where, *options)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
