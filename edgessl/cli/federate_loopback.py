"""`edgessl federate loopback`: a federation on real Flower processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import Stages
from edgessl.cli.federate_common import federation_options, load_streams, report
from edgessl.cli.group import examples


@click.command(
    epilog=examples(
        "edgessl federate loopback model.edgessl site-a.npy site-b.npy --rounds 3",
        "edgessl federate loopback model.edgessl digits --clients 2 --rounds 2 --timeout 120",
    )
)
@federation_options
@click.option("--timeout", type=float, default=300.0, metavar="S", help="Longest it may take.  [default: 300]")
def loopback(
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
    thing on one machine. For a network there are `serve`, `run` and `join`.
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
