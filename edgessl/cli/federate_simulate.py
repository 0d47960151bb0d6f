"""`edgessl federate simulate`: a federation in this process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages
from edgessl.cli.federate_common import federation_options, load_streams, report
from edgessl.cli.group import examples

if TYPE_CHECKING:
    from edgessl.cli.federate_common import Float


@click.command(
    epilog=examples(
        "edgessl federate simulate model.edgessl digits --clients 4 --rounds 10",
        "edgessl federate simulate model.edgessl digits --clients 4 --codec topk:0.25+int8 --downlink int8",
        "edgessl federate simulate model.edgessl site-a.npy site-b.npy site-c.npy --local-steps 32 --json",
    )
)
@federation_options
@click.option("--codec", default="whole", show_default=True, help="How clients send what they learned.")
@click.option("--downlink", default="whole", show_default=True, help="How new weights go to clients.")
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
    codec: str,
    downlink: str,
    as_json: bool,
) -> None:
    """Run a federation in this process.

    Flower's own apps and messages, no network. One DATA is cut into --clients contiguous shards, as if each device
    had lived through a part of it; several DATA make one client each. The same arguments and a fresh --out give
    the same weights, bit for bit; an --out used before goes on, and --rounds counts the rounds before. `log` and
    `dashboard` read --out as they read a server's run.
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
            codec=codec,
            downlink=downlink,
        )
        result.save(out / "theta.safetensors", opened.digest)
    report(result, out, len(streams), as_json)
