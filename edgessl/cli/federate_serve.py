"""`edgessl federate serve`: the server of a federation."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages
from edgessl.cli.federate_common import report
from edgessl.cli.federate_runs import result_of, run_options, start_run
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag

if TYPE_CHECKING:
    from federated.deployment.superlink import Operator

_FOLDER = click.Path(path_type=Path, file_okay=False)
_LOOK_SECONDS = 5.0


@click.command(
    epilog=examples(
        "edgessl federate serve fleet --tls tls --devices keys",
        "edgessl federate serve fleet --tls tls --devices keys --run model.edgessl --rounds 50",
        "edgessl federate serve fleet --insecure --run model.edgessl",
    )
)
@click.argument("folder", type=_FOLDER)
@click.option("--tls", type=_FOLDER, help="Folder of `certs`; needed without --insecure.")
@click.option("--insecure", is_flag=True, help="Plain HTTP, any device: for this machine or a closed test network.")
@click.option("--devices", type=_FOLDER, help="Folder of public keys to let in; watched for new ones.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=9092, show_default=True, help="Port to listen on.")
@click.option("--run", "bundle", type=click.Path(path_type=Path), help="Bundle to federate; ends with the run.")
@run_options
@json_flag
def serve(
    folder: Path,
    tls: Path | None,
    insecure: bool,
    devices: Path | None,
    host: str,
    port: int,
    bundle: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Serve a federation: SuperLink and ServerApp.

    Listens on a loopback address, speaks TLS and lets in registered devices only. Keep it so and put `proxy` in front:
    the SuperLink's one port also has the control API, which asks for no login. All there is lies in FOLDER. With --run
    it starts the run, or goes on with one that was interrupted, and ends with it; otherwise `run` starts runs.
    """
    from federated.deployment.superlink import Operator, Server, running

    if insecure == (tls is not None):
        raise click.UsageError("give --tls FOLDER (edgessl federate certs makes one) or --insecure")
    server = Server(folder.resolve(), host, port, None if tls is None else tls.resolve())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Stages() as stages, contextlib.ExitStack() as stack:
        if not server.local:
            stages.warn(f"{host}:{port} has the control API too: whoever reaches it can run code here; see `proxy`")
        stages.update(server.address, note="starting")
        programs = stack.enter_context(running(server))
        operator = stack.enter_context(Operator(server))

        seen: set[Path] = set()

        def keep_on() -> bool:
            programs.check()
            if devices is not None:
                _let_in(operator, devices, seen, stages)
            return not stop.is_set()

        keep_on()
        stages.say(f"{server.address}: ready")
        if bundle is None:
            while keep_on():
                stop.wait(_LOOK_SECONDS)
            return
        run = start_run(operator, bundle, given)
        stages.say(f"{server.address}: run {run} has begun")
        operator.wait(run, keep_on=keep_on)
        if stop.is_set():
            return
        result = result_of(operator, bundle, given["name"])
    report(result, server.folder / given["name"], max((r["clients"] for r in result.rounds), default=0), as_json)


def _let_in(operator: Operator, devices: Path, seen: set[Path], stages: Stages) -> None:
    """Register the keys in `devices` that were not `seen` yet."""
    new = set(devices.glob("*.pub")) - seen
    seen |= new
    if new:
        numbers, refused = operator.register(sorted(new))
        for name, node in numbers.items():
            stages.say(f"device {name} may join as node {node}")
        for name, reason in refused.items():
            stages.warn(f"device {name}: {reason}")
