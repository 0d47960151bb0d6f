"""`edgessl federate proxy`: what devices may reach of a server."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.group import examples
from edgessl.cli.options import ByteSize, count


@click.command(
    epilog=examples(
        "edgessl federate proxy fleet --name fleet.example.org > edgessl.conf",
        "edgessl federate proxy fleet --name 192.0.2.7 --listen 8443 --cert /etc/ssl/f.pem --cert-key /etc/ssl/f.key",
    )
)
@click.argument("server", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="Host name that devices use.")
@click.option("--listen", default="443", show_default=True, metavar="[ADDRESS:]PORT", help="Where devices connect.")
@click.option("--cert", type=click.Path(path_type=Path), help="Certificate of the proxy.  [default: the server's]")
@click.option("--cert-key", type=click.Path(path_type=Path), help="Its key.  [default: the server's]")
@click.option("--max-request", type=ByteSize(), default="24MiB", help="Largest request.  [default: 24MiB]")
@count("--rate", 30, "Requests a second of one address.")
def proxy(
    server: Path, name: str, listen: str, cert: Path | None, cert_key: Path | None, max_request: int, rate: int
) -> None:
    """Write an nginx configuration that opens the fleet API.

    Put it into /etc/nginx/conf.d/ and leave the server on its loopback address: devices then reach the ten calls that
    they need, and nobody reaches the control API, which asks for no login. SERVER is the folder of `serve`.
    """
    from federated.deployment.certificates import CA, CERTIFICATE, KEY
    from federated.deployment.proxy import Proxy
    from federated.deployment.superlink import Server

    found = Server.read(server)
    if found.tls is None:
        raise click.UsageError(f"{server} serves plain HTTP, which knows no device keys; serve it with --tls.")
    tls = found.tls.resolve()
    certificate, key = cert or tls / CERTIFICATE, cert_key or tls / KEY
    made = Proxy(name, listen, found.address, certificate.resolve(), key.resolve(), tls / CA, max_request, rate)
    click.echo(made.nginx(), nl=False)
