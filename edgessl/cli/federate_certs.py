"""`edgessl federate certs`: TLS for a federation of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.console import console, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import count


@click.command(epilog=examples("edgessl federate certs tls fleet.example.org 192.0.2.7", "edgessl federate certs tls"))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("hosts", nargs=-1, metavar="[HOST...]")
@count("--days", 397, "For which the server's certificate is good.")
def certs(folder: Path, hosts: tuple[str, ...], days: int) -> None:
    """Make or renew the server's certificate.

    The first call makes a CA as well: FOLDER/ca.crt goes to every device, FOLDER/ca.key to no one. Later calls renew
    the server's certificate under the same CA, and no device has to be touched; restart the server afterwards. HOST is
    what devices call the server, a name or an address; this machine's own names are always in.
    """
    from federated.deployment import certificates

    if not (folder / certificates.CA).exists():
        certificates.create_authority(folder)
    end = certificates.issue_server(folder, hosts, days=days)
    show_facts(
        console(),
        [
            ("CA", f"{folder / certificates.CA}: for every device"),
            ("server", f"{folder / certificates.CERTIFICATE}, good until {end:%Y-%m-%d}"),
            ("secret", f"{folder / certificates.CA_KEY}, {folder / certificates.KEY}: keep them here"),
        ],
    )
