"""`edgessl continual bench`: strategies x objectives x streams x seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import Stages, console, print_json
from edgessl.cli.group import examples
from edgessl.cli.options import CommaList, json_flag


@click.command(
    epilog=examples(
        "edgessl continual bench",
        "edgessl continual bench --streams split_fashion,har_subject --out runs/continual",
        "edgessl continual bench --strategies replay-reservoir,lump,ewc --seeds 0,1,2 --json > rows.json",
        "edgessl continual bench --streams har_subject --strategies replay-reservoir --backends torch,onnx --seeds 0",
    )
)
@click.option("--streams", type=CommaList(), metavar="A,B", default="split_digits", show_default=True, help="Streams.")
@click.option("--objectives", type=CommaList(), metavar="A,B", default="vicreg", show_default=True, help="Objectives.")
@click.option("--strategies", type=CommaList(), metavar="A,B", help="Strategies; all unless given.")
@click.option("--seeds", type=CommaList(int), metavar="0,1", default="0,1,2", show_default=True, help="Seeds.")
@click.option(
    "--backends", type=CommaList(), metavar="A,B", default="torch", show_default=True, help="torch, onnx or both."
)
@click.option("--workers", type=click.IntRange(0), metavar="N", default=0, help="Processes; one per core unless given.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for JSON (continued if it is there), accuracy matrices as CSV, and report.html.",
)
@json_flag
def bench(
    streams: list[str],
    objectives: list[str],
    strategies: list[str] | None,
    seeds: list[int],
    backends: list[str],
    workers: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Let devices live through streams, once, and measure what they kept.

    random, frozen, finetune and joint are always among the strategies: without them no figure says anything.
    """
    from edgessl.bench.continual.run import run

    with Stages() as stages:
        stages.update("continual bench")
        result = run(
            streams,
            objectives,
            strategies or (),
            seeds,
            backends=backends,
            workers=workers,
            out=str(out) if out else "",
            progress=lambda line: stages.update("continual bench", note=line),
        )
    if out is not None:
        from edgessl.bench.continual.tables import write_csv, write_report

        write_csv(result, out)
        write_report(result, out / "report.html")
    if as_json:
        print_json(_plain(result))
        return
    from edgessl.bench.continual.tables import continual_table, objectives_of

    for found in result["results"]:
        for objective in objectives_of(found):
            console().print(continual_table(found, objective))


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """One flat list of rows, whatever their stream, beside each stream's settings."""
    results = result["results"]
    return {
        **{key: result[key] for key in ("bench", "machine", "versions")},
        "settings": {found["stream"]: found["settings"] for found in results},
        "rows": [row for found in results for row in found["rows"]],
        "failures": [failure for found in results for failure in found["failures"]],
    }
