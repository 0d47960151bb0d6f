"""`edgessl federate keys` and `edgessl federate devices`: who may join."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.console import console, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag
from edgessl.errors import ConfigError

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(epilog=examples("edgessl federate keys keys/kitchen keys/cellar"))
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
def keys(paths: tuple[Path, ...]) -> None:
    """Make a key pair for each device.

    PATH is the device's secret: put it on that device alone, or make it there. PATH.pub goes into the folder that
    `serve --devices` watches; the file's name is the device's. ECDSA P-384 in OpenSSH's format, as ssh-keygen makes it.
    """
    from federated.node.identity import Identity

    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Identity.create(path)
        show_facts(console(), [("private", f"{path}: for the device"), ("public", f"{path}.pub: for the server")])


@click.command(
    epilog=examples("edgessl federate devices fleet", "edgessl federate devices fleet --remove kitchen --json")
)
@click.argument("server", type=_FOLDER)
@click.option("--add", multiple=True, type=click.Path(path_type=Path), help="Public key to let in. Repeatable.")
@click.option("--remove", multiple=True, metavar="NAME", help="Device to let in no longer. Repeatable.")
@json_flag
def devices(server: Path, add: tuple[Path, ...], remove: tuple[str, ...], as_json: bool) -> None:
    """List the devices of a running server, let some in, shut some out.

    SERVER is the folder of `serve`, on the same machine. A key that is removed cannot be let in again: give the
    device another one.
    """
    from federated.deployment.superlink import Operator, Server

    with Operator(Server.read(server)) as operator:
        _, refused = operator.register(add)
        for name in remove:
            operator.unregister(name)
        found = operator.devices()
    if refused:
        raise ConfigError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    if as_json:
        print_json({"devices": [{"name": d.name, "node": d.node, "status": d.status} for d in found]})
    else:
        show_grid(console(), ("device", "node", "status"), [(d.name or "-", str(d.node), d.status) for d in found])
