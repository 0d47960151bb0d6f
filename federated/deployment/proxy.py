"""A reverse proxy between devices and SuperLink: nginx, which lets the fleet API through and nothing else.

Flower's open-source SuperLink has one port for everything, and no login for operators: whoever reaches its control
API can start a run, which is code of theirs on the server. So the SuperLink stays on a loopback address, and what the
world reaches is this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgessl.errors import ConfigError

CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "confirm-message-received",
    "get-run",  # these two for stock SuperNodes alone
    "get-fab",
)
_PLAIN = re.compile(r"[\w.:*\[\]/-]+")


@dataclass(frozen=True)
class Proxy:
    """What the configuration says.

    Attributes:
        name: host name that devices use.
        listen: address and port, or a port.
        upstream: host:port of the SuperLink.
        upstream_name: DNS name in its certificate (nginx compares names, not addresses); `certs` puts this one in.
        certificate, key: PEM files of the proxy; ca: that of the SuperLink's certificate; absolute paths all.
        body_bytes: largest request; a reply's array travels in chunks of at most 20 MiB.
        requests_per_second: of one device (its address); a lean node makes one, and about ten for a message.
    """

    name: str
    listen: str
    upstream: str
    certificate: Path
    key: Path
    ca: Path
    body_bytes: int = 24 << 20
    requests_per_second: int = 30
    upstream_name: str = "localhost"

    def __post_init__(self) -> None:
        for what in ("name", "listen", "upstream", "upstream_name", "certificate", "key", "ca"):
            if not _PLAIN.fullmatch(str(getattr(self, what))):
                raise ConfigError(f"{what}: {str(getattr(self, what))!r} cannot stand in an nginx configuration")
        for what in ("certificate", "key", "ca"):
            if not getattr(self, what).is_absolute():
                raise ConfigError(f"{what}: nginx needs an absolute path, found {getattr(self, what)}")

    def nginx(self) -> str:
        """The configuration, for a file in /etc/nginx/conf.d/."""
        return f"""# From `edgessl federate proxy`: devices reach the fleet API, nobody reaches anything else.
limit_req_zone $binary_remote_addr zone=edgessl_fleet:10m rate={self.requests_per_second}r/s;

upstream edgessl_superlink {{
    server {self.upstream};
    keepalive 32;
}}

server {{
    listen {self.listen} ssl;
    server_name {self.name};

    ssl_certificate {self.certificate};
    ssl_certificate_key {self.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:edgessl_tls:10m;
    ssl_session_timeout 1d;

    server_tokens off;
    keepalive_timeout 75s;
    client_max_body_size {self.body_bytes};
    client_header_timeout 20s;
    client_body_timeout 60s;
    send_timeout 60s;

    # The call is named by the capture, never by what the client sent: no encoding of a path leads elsewhere.
    location ~ "^/v1/fleet/({"|".join(CALLS)})$" {{
        limit_except POST {{ deny all; }}
        limit_req zone=edgessl_fleet burst={4 * self.requests_per_second} nodelay;
        proxy_pass https://edgessl_superlink/v1/fleet/$1;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host {self.upstream_name};
        proxy_ssl_verify on;
        proxy_ssl_name {self.upstream_name};
        proxy_ssl_server_name on;
        proxy_ssl_trusted_certificate {self.ca};
        proxy_ssl_session_reuse on;
        proxy_read_timeout 120s;
        proxy_next_upstream off;
    }}

    location = /health {{
        limit_except GET {{ deny all; }}
        proxy_pass https://edgessl_superlink/health;
        proxy_ssl_verify on;
        proxy_ssl_name {self.upstream_name};
        proxy_ssl_trusted_certificate {self.ca};
    }}

    location / {{
        return 403;
    }}
}}
"""
