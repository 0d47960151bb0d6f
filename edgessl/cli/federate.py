"""`edgessl federate`: devices share what they learned, never their data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, show_grid, size
from edgessl.cli.group import LazyGroup, examples
from edgessl.cli.options import ByteSize, count, data_options, json_flag, open_data
from edgessl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from federated import FederationResult

    Float = np.ndarray[Any, np.dtype[np.float32]]

DEFAULT_CLIENTS = 4  # shards of a single stream
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def federation_options(command: Decorated) -> Decorated:
    """What both ways to run a federation take."""
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


@click.group(
    cls=LazyGroup,
    lazy={"simulate": "edgessl.cli.federate:simulate", "run": "edgessl.cli.federate:run"},
    epilog=examples(
        "edgessl federate simulate model.edgessl digits --clients 4 --rounds 10",
        "edgessl federate run model.edgessl a.npy b.npy --rounds 3",
    ),
)
def federate() -> None:
    """Let devices share what they learned, never their data.

    Every client streams its own data into its own learner. In each round it takes the fleet's weights, learns
    on its own memory and sends one vector back; the server averages the vectors, weighted by samples seen.
    """


@click.command(
    epilog=examples(
        "edgessl federate simulate model.edgessl digits --clients 4 --rounds 10",
        "edgessl federate simulate model.edgessl site-a.npy site-b.npy site-c.npy --local-steps 32 --json",
    )
)
@federation_options
def simulate(
    bundle: Path,
    data: tuple[str, ...],
    data_options: dict[str, Any],
    clients: int | None,
    rounds: int,
    local_steps: int,
    memory: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Run a federation in this process.

    Flower's own apps and messages, no network. One DATA is cut into --clients contiguous shards, as if each device
    had lived through a part of it; several DATA make one client each. The same arguments and a fresh --out give
    the same weights, bit for bit.
    """
    with Stages() as stages:
        streams = load_streams(stages, data, data_options, clients)
        from edgessl.device import Bundle
        from federated import federate_in_process

        stage = f"{len(streams)} clients"
        stages.update(stage, 0.0, "observing their streams")
        opened = Bundle.open(bundle)
        out.mkdir(parents=True, exist_ok=True)

        def on_round(record: dict[str, Any], theta: Float) -> None:
            number = record["round"]
            for node, reason in record["failures"].items():
                stages.warn(f"round {number}: node {node} left out: {reason}")
            stages.update(
                stage, number / rounds, f"round {number} of {rounds}  loss {record.get('loss', math.nan):.3f}"
            )

        result = federate_in_process(
            opened,
            streams,
            rounds=rounds,
            local_steps=local_steps,
            workdir=out,
            seed=seed,
            memory_bytes=memory,
            on_round=on_round,
        )
        result.save(out / "theta.safetensors", opened.digest)
    report(result, out, len(streams), as_json)


@click.command(
    epilog=examples(
        "edgessl federate run model.edgessl site-a.npy site-b.npy --rounds 3",
        "edgessl federate run model.edgessl digits --clients 2 --rounds 2 --timeout 120",
    )
)
@federation_options
@click.option("--timeout", type=float, default=300.0, metavar="S", help="Longest it may take.  [default: 300]")
def run(
    bundle: Path,
    data: tuple[str, ...],
    data_options: dict[str, Any],
    clients: int | None,
    rounds: int,
    local_steps: int,
    memory: int,
    seed: int,
    out: Path,
    as_json: bool,
    timeout: float,
) -> None:
    """Run a federation on real Flower processes.

    Starts a SuperLink and one SuperNode per client on 127.0.0.1 and stops them at the end, whatever happens.
    DATA are handed to the nodes as they would be to `simulate`; logs lie in --out. Plain HTTP: to try the real
    thing on one machine, not for a network.
    """
    with Stages() as stages:
        streams = load_streams(stages, data, data_options, clients)
        import numpy as np

        from federated import run_loopback

        files = []
        (out / "streams").mkdir(parents=True, exist_ok=True)
        for i, samples in enumerate(streams):
            files.append(out / "streams" / f"client-{i}.npy")
            np.save(files[-1], samples)

        stages.update(f"Flower on loopback, {len(streams)} nodes", note=f"{rounds} rounds; logs in {out / 'logs'}")
        result = run_loopback(
            bundle,
            files,
            rounds=rounds,
            local_steps=local_steps,
            workdir=out,
            seed=seed,
            memory_bytes=memory,
            timeout=timeout,
        )
    report(result, out, len(streams), as_json)


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
