"""`edgessl federate log` and `edgessl federate rollback`: the versions of a fleet's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import console, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag
from edgessl.errors import ConfigError

_STATE = click.argument("state", type=click.Path(path_type=Path, file_okay=False))


@click.command(epilog=examples("edgessl federate log fleet/run/state", "edgessl federate log fleet/run/state --json"))
@_STATE
@json_flag
def log(state: Path, as_json: bool) -> None:
    """Show a federation's round log, checked line by line.

    STATE is the run's state directory. Every version has a parent; a line that was changed, lost or put in is found.
    """
    from federated.checkpoint import LOG
    from federated.lineage import RoundLog

    if not (path := state / LOG).exists():
        raise ConfigError(f"{path}: no round log; give the state directory of a run, such as fleet/run/state")
    events = list(RoundLog(path).events())
    if as_json:
        print_json({"events": events})
        return
    columns = ("time", "event", "round", "version", "parent", "branch", "devices", "failed", "reason")
    show_grid(console(), columns, [_row(event) for event in events])


@click.command(
    epilog=examples('edgessl federate rollback fleet/run/state model.edgessl --to 12 --reason "round 13: bad labels"')
)
@_STATE
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", "number", required=True, type=click.IntRange(0), help="Round whose weights are gone back to.")
@click.option("--reason", required=True, help="For the log.")
@json_flag
def rollback(state: Path, bundle: Path, number: int, reason: str, as_json: bool) -> None:
    """Take back bad rounds, fleet-wide.

    STATE is the state directory of a run of BUNDLE that is stopped. The next run goes on from the weights of that
    round; devices see a new branch, take its weights, and forget what they kept of the old one. The log keeps
    everything. Privacy budget spent stays spent.
    """
    from edgessl.device import Bundle
    from federated.checkpoint import LOG, ServerStore

    if not (state / LOG).exists():
        raise ConfigError(f"{state / LOG}: no round log; give the state directory of a run, such as fleet/run/state")
    with ServerStore(state, Bundle.open(bundle).digest) as store:
        head = store.roll_back(number, reason)
    version = head.version
    if as_json:
        print_json({"round": version.number, "version": version.hash, "branch": version.branch, "next": head.last + 1})
        return
    facts = [
        ("weights", f"of round {version.number}, version {version.hash[:12]}"),
        ("branch", str(version.branch)),
        ("next round", str(head.last + 1)),
    ]
    show_facts(console(), facts)


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    found = event.get("round", event.get("number"))
    return (
        event["time"][:19],
        event["event"],
        "-" if found is None else str(found),
        str(event.get("version", event.get("to", "-")))[:12],
        str(event.get("parent", event.get("from", "-")))[:12],
        str(event.get("branch", "-")),
        str(event.get("clients", "-")),
        str(len(event["failures"])) if "failures" in event else "-",
        str(event.get("refused", event.get("reason", "")))[:60],
    )
