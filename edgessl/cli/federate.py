"""`edgessl federate`: devices share what they learned, never their data."""

from __future__ import annotations

import click

from edgessl.cli.group import LazyGroup, examples

COMMANDS = {
    "simulate": "edgessl.cli.federate_simulate:simulate",
    "loopback": "edgessl.cli.federate_loopback:loopback",
    "certs": "edgessl.cli.federate_certs:certs",
    "keys": "edgessl.cli.federate_keys:keys",
    "serve": "edgessl.cli.federate_serve:serve",
    "proxy": "edgessl.cli.federate_proxy:proxy",
    "devices": "edgessl.cli.federate_keys:devices",
    "run": "edgessl.cli.federate_run:run",
    "join": "edgessl.cli.federate_join:join",
    "log": "edgessl.cli.federate_lineage:log",
    "dashboard": "edgessl.cli.federate_dashboard:dashboard",
    "rollback": "edgessl.cli.federate_lineage:rollback",
    "release": "edgessl.cli.federate_release:release",
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=examples(
        "edgessl federate simulate model.edgessl digits --clients 4 --rounds 10",
        "edgessl federate serve fleet --tls tls --devices keys --run model.edgessl --rounds 50",
        "edgessl federate join model.edgessl --server fleet.example.org:443 --ca ca.crt --key device.key --state state",
    ),
)
def federate() -> None:
    """Let devices share what they learned, never their data.

    Every client streams its own data into its own learner. In each round it takes the fleet's weights, learns
    on its own memory and sends one vector back; the server averages the vectors, weighted by samples seen.
    """
