"""What the commands share that run a whole federation: its data, its options, its table of rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, show_grid, size
from edgessl.cli.options import ByteSize, count, data_options, json_flag, open_data
from edgessl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from federated import FederationResult

    Float = np.ndarray[Any, np.dtype[np.float32]]

DEFAULT_CLIENTS = 4  # shards of a single stream
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def federation_options(command: Decorated) -> Decorated:
    """What both ways to run a federation on one machine take."""
    for decorate in reversed(
        (
            click.argument("bundle", type=click.Path(path_type=Path)),
            click.argument("data", nargs=-1, required=True),
            data_options,
            click.option(
                "--clients",
                type=click.IntRange(1),
                metavar="N",
                help=f"Shards of one DATA, in order.  [default: one per DATA, {DEFAULT_CLIENTS} for a single one]",
            ),
            count("--rounds", 10, "Rounds of the federation."),
            count("--local-steps", 16, "Training steps of a client in each round."),
            click.option(
                "--memory", type=ByteSize(), default="4MiB", help="Bound of a client's memory.  [default: 4MiB]"
            ),
            count("--seed", 0, "Of the clients' draws.", least=0),
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                default=Path("runs/federation"),
                help="Folder of the clients' state and the final weights.  [default: runs/federation]",
            ),
            json_flag,
        )
    ):
        command = decorate(command)
    return command


def load_streams(stages: Stages, data: tuple[str, ...], options: dict[str, Any], clients: int | None) -> list[Float]:
    """One array of samples (N, *shape) per client."""
    import numpy as np

    if clients is not None and len(data) > 1 and clients != len(data):
        raise click.UsageError(f"--clients {clients} cuts one DATA; {len(data)} DATA make {len(data)} clients.")
    stages.update("loading")
    sources = [open_data(spec, options) for spec in data]
    streams = [source.take(np.arange(len(source))) for source in sources]
    if len(streams) > 1:
        return streams
    shards = clients or DEFAULT_CLIENTS
    if shards > len(streams[0]):
        raise InputError(f"{data[0]}: {len(streams[0])} samples cannot be cut for {shards} clients")
    return [np.ascontiguousarray(shard) for shard in np.array_split(streams[0], shards)]


def report(result: FederationResult, out: Path, clients: int, as_json: bool) -> None:
    """The rounds and where the final weights lie."""
    weights = out / "theta.safetensors"
    if as_json:
        summary = {"clients": clients, "rounds": result.rounds, "seconds": result.seconds, "weights": str(weights)}
        print_json(summary)
        return
    columns = ("round", "clients", "failed", "loss", "std", "rank", "down", "up", "time")
    rows = [
        (
            str(r["round"]),
            str(r["clients"]),
            str(len(r["failures"])),
            *(f"{r[name]:.3f}" if name in r else "-" for name in ("loss", "embedding-std", "effective-rank")),
            size(r["bytes_down"]),
            size(r["bytes_up"]),
            duration(r["seconds"]),
        )
        for r in result.rounds
    ]
    show = console()
    show_grid(show, columns, rows)
    show_facts(
        show,
        [
            ("done", f"rounds: {len(result.rounds)}, clients: {clients}, in {duration(result.seconds)}"),
            ("weights", f"{weights} (federated.FederationResult.load)"),
        ],
    )
