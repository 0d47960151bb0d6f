"""`edgessl federate dashboard`: a live page of a federation."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.console import console
from edgessl.cli.group import examples


@click.command(epilog=examples("edgessl federate dashboard fleet/run", "edgessl federate dashboard fleet/run --port 0"))
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), default=8050, help="On 127.0.0.1; 0 for any.  [default: 8050]")
def dashboard(run_dir: Path, port: int) -> None:
    """Show a federation on a live page.

    Rounds, devices, bytes, representation, epsilon and failures, as the run goes on.

    RUN_DIR is the directory of a run, or its state directory. The page reads the round log there and nothing else; it
    is served to this machine alone (from afar: ssh -L 8050:127.0.0.1:8050 HOST), and needs no internet.
    """
    from federated.dashboard.serve import serve

    serve(run_dir, port, lambda address: console().print(f"{address}  (ctrl-c ends it)"))
