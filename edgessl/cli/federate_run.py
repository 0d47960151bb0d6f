"""`edgessl federate run`: a run on a server that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts
from edgessl.cli.federate_common import report
from edgessl.cli.federate_runs import result_of, run_options, start_run
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag


@click.command(
    epilog=examples(
        "edgessl federate run model.edgessl --server fleet --rounds 20 --wait",
        "edgessl federate run model.edgessl --server fleet --strategy fedavg --client rule=fedema",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--server", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of `serve`.")
@run_options
@click.option("--wait", is_flag=True, help="Wait for its end; exit code 2 when the run fails.")
@json_flag
def run(bundle: Path, server: Path, wait: bool, as_json: bool, **given: Any) -> None:
    """Start a run on a server of this machine.

    The round log and every version lie in the folder --name of the server's folder; a run of the same name goes on
    where the last one was interrupted. With --wait the exit code says whether it completed (Flower's own is 0 even
    for a run that failed).
    """
    from federated.deployment.superlink import Operator, Server

    with Stages() as stages, Operator(Server.read(server)) as operator:
        stages.update("submitting")
        number = start_run(operator, bundle, given)
        if wait:
            stages.update(f"run {number}", note=f"logs in {operator.server.folder / 'logs'}")
            operator.wait(number, keep_on=lambda: True)
            result = result_of(operator, bundle, given["name"])
    folder = operator.server.folder / given["name"]
    if wait:
        report(result, folder, max((r["clients"] for r in result.rounds), default=0), as_json)
    elif as_json:
        print_json({"run": number})
    else:
        show_facts(console(), [("run", str(number)), ("folder", str(folder))])
