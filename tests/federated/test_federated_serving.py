"""What serves a federation, short of starting it: certificates as OpenSSL checks them, the proxy, the folder."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgessl.errors import ConfigError
from federated.deployment import certificates, superlink
from federated.deployment.proxy import CALLS, Proxy
from federated.deployment.superlink import Server
from federated.node import Identity

OPENSSL = shutil.which("openssl")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificates.create_authority(folder)
    certificates.issue_server(folder, ["fleet.example.org", "192.0.2.7"])
    return folder


class TestCertificates:
    @pytest.mark.skipif(OPENSSL is None, reason="no openssl here to judge")
    @pytest.mark.parametrize(
        ("name", "holds"),
        [
            (("-verify_hostname", "fleet.example.org"), True),
            (("-verify_hostname", "localhost"), True),
            (("-verify_ip", "192.0.2.7"), True),
            (("-verify_ip", "127.0.0.1"), True),
            (("-verify_hostname", "example.org"), False),
            (("-verify_ip", "192.0.2.8"), False),
        ],
    )
    def test_openssl_agrees(self, tls, name, holds):
        command = [OPENSSL, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(tls / "ca.crt"), *name]
        done = subprocess.run([*command, str(tls / "server.crt")], capture_output=True, text=True)
        assert (done.returncode == 0) == holds, done.stdout + done.stderr

    def test_secrets_are_their_owners(self, tls):
        assert {stat.S_IMODE((tls / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}

    def test_a_renewal_keeps_the_ca_and_changes_the_key(self, tmp_path):
        certificates.create_authority(tmp_path)
        certificates.issue_server(tmp_path, [], days=10)
        before = {name: (tmp_path / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")}
        end = certificates.issue_server(tmp_path, [], days=100)
        after = {name: (tmp_path / name).read_bytes() for name in before}
        assert [name for name in before if before[name] == after[name]] == ["ca.crt"]
        assert timedelta(98) < end - datetime.now(UTC) < timedelta(100)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")

    def test_what_cannot_be_is_an_error(self, tls, tmp_path):
        with pytest.raises(ConfigError, match="exists already"):
            certificates.create_authority(tls)
        with pytest.raises(ConfigError, match="federate certs makes one"):
            certificates.issue_server(tmp_path, [])
        certificates.create_authority(tmp_path, days=30)
        with pytest.raises(ConfigError, match="before 397 days are over"):
            certificates.issue_server(tmp_path, [])
        (tmp_path / "ca.key").write_bytes((tls / "ca.key").read_bytes())
        with pytest.raises(ConfigError, match=r"ca\.key is not the key of ca\.crt"):
            certificates.issue_server(tmp_path, [], days=10)
        with pytest.raises(ConfigError, match="expected a name or an address in ASCII"):
            certificates.issue_server(tls, ["flötte.example"])


class TestProxy:
    @pytest.fixture
    def made(self, tls):
        return Proxy(
            "fleet.example.org", "443", "127.0.0.1:9092", *(tls / n for n in ("server.crt", "server.key", "ca.crt"))
        )

    def test_it_names_ten_calls_and_denies_the_rest(self, made):
        text = made.nginx()
        assert text.count("{") == text.count("}")
        assert f"({'|'.join(CALLS)})$" in text
        assert "location / {\n        return 403;" in text
        assert "control" not in text.split("server {")[1]
        assert "proxy_ssl_verify on;" in text
        assert not {"register-node", "unregister-node"} & set(CALLS)

    @pytest.mark.parametrize("change", [{"name": "a; root /"}, {"listen": "443 default"}, {"upstream": "x{y}:1"}])
    def test_nothing_can_be_slipped_into_the_configuration(self, made, change):
        with pytest.raises(ConfigError, match="cannot stand in an nginx configuration"):
            Proxy(**{**made.__dict__, **change})

    def test_paths_are_absolute(self, made):
        with pytest.raises(ConfigError, match="absolute"):
            Proxy(**{**made.__dict__, "key": Path("server.key")})


class TestServer:
    def test_by_default_it_is_safe(self, tls, tmp_path):
        server = Server(tmp_path, tls=tls)
        command = server.command()
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert server.local
        assert "--enable-supernode-auth" in command
        assert "--insecure" not in command
        assert command[command.index("--ssl-certfile") + 1] == str(tls / "server.crt")

    def test_its_folder_says_all(self, tls, tmp_path):
        server = Server(tmp_path, "0.0.0.0", 9999, tls)
        server.write()
        assert Server.read(tmp_path) == server
        assert not server.local
        assert 'address = "127.0.0.1:9999"' in (tmp_path / "flwr" / "config.toml").read_text()
        assert f'root-certificates = "{tls / "ca.crt"}"' in (tmp_path / "flwr" / "config.toml").read_text()
        with pytest.raises(ConfigError, match="no folder of edgessl federate serve"):
            Server.read(tmp_path / "flwr")

    def test_an_expired_certificate_is_not_served(self, tmp_path):
        certificates.create_authority(tmp_path)
        certificates.issue_server(tmp_path, [], days=1, earlier=timedelta(days=2))
        with pytest.raises(ConfigError, match=r"server\.crt: expired .*federate certs renews it"):
            Server(tmp_path, tls=tmp_path).command()

    def test_only_public_keys_of_devices_are_let_in(self, tmp_path):
        made = Identity.create(tmp_path / "d0")
        assert superlink._public_key(tmp_path / "d0.pub") == made.public_key
        for name, data in (("no.pub", b"nonsense"), ("d0", (tmp_path / "d0").read_bytes())):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ConfigError, match=r"expected the \.pub file"):
                superlink._public_key(tmp_path / name)

    def test_what_a_killed_server_left_is_ended_and_nothing_else(self, tmp_path):
        env = {"FLWR_HOME": str(tmp_path / "mine")}
        sleeps = ["sleep", "60"]
        with (
            subprocess.Popen(sleeps, env=env) as left,
            subprocess.Popen(sleeps, env={"FLWR_HOME": str(tmp_path / "mine2")}) as other,
        ):
            try:
                assert superlink.end_leftovers(tmp_path / "mine") == [left.pid]
                assert left.wait(10) == -9
                assert other.poll() is None
            finally:
                left.kill()
                other.kill()
