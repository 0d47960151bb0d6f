"""`edgessl demo`: the whole story on real data, in minutes, with a report."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.console import Stages, console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import count, json_flag


@click.command(
    epilog=examples("edgessl demo", "edgessl demo --seeds 1 --out /tmp/demo", "edgessl demo --json > demo.json")
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    help="Folder of the report.  [default: runs/demo]",
)
@count("--seeds", 3, "Repetitions; figures are their mean and standard deviation.")
@json_flag
def demo(out: Path, seeds: int, as_json: bool) -> None:
    """Pretrain, quantize, adapt and federate; report what each brings.

    Everything runs on this machine, on the handwritten digits that scikit-learn carries: no download. The
    report is one HTML page that needs nothing else, and report.json beside it.
    """
    with Stages() as stages:
        stages.update("starting")
        from edgessl.demo import run_demo

        result = run_demo(out, range(seeds), stages.update)
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    from edgessl.report import demo_table

    Console().print(demo_table(result))
    show_facts(console(), [("report", str(out / "report.html")), ("data", str(out / "report.json"))])
