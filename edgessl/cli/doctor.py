"""`edgessl doctor`: what is installed here and what will therefore work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from edgessl.cli.console import QUIET, WARNING, Stages, console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag

_MARKS = {"ok": ("\N{CHECK MARK}", "green"), "warn": ("!", WARNING), "missing": ("\N{BULLET}", WARNING)}


@click.command(
    epilog=examples(
        "edgessl doctor",
        "edgessl doctor --json | jq .capabilities",
        "edgessl doctor --device",
        "edgessl doctor --device --bundle model.edgessl",
    )
)
@click.option("--device", is_flag=True, help="Measure the device path: size on disk, import time, memory.")
@click.option("--bundle", type=click.Path(path_type=Path), help="With --device: open this bundle and take a step.")
@json_flag
def doctor(device: bool, bundle: Path | None, as_json: bool) -> None:
    """Look at this machine: what is installed, and what will work.

    A device needs the first capability only. Marks: ✓ all is well, ! works with a limit, • not there; the last
    column says what to do about it.
    """
    if device:
        _device(bundle, as_json)
        return
    if bundle is not None:
        raise click.UsageError("--bundle goes with --device.")
    with Stages() as stages:
        stages.update("looking")
        from edgessl.doctor import report

        found = report()
    if as_json:
        print_json(found)
    else:
        show_findings(found)


_FIGURES = {
    "installed_mb": ("on disk", "MB, numpy and onnxruntime included"),
    "import_ms": ("import", "ms"),
    "own_import_ms": ("of it edgessl", "ms"),
    "import_rss_mb": ("memory after import", "MB"),
    "open_ms": ("open to first embedding", "ms"),
    "open_rss_mb": ("memory after opening", "MB"),
    "step_ms": ("training step", "ms"),
    "learn_rss_mb": ("memory after a step", "MB"),
}


def _device(bundle: Path | None, as_json: bool) -> None:
    from edgessl.bench.device.footprint import footprint

    with Stages() as stages:
        stages.update("measuring")
        found = footprint(bundle)
    if as_json:
        print_json(found)
    else:
        names = {key: _FIGURES[key] for key in found}
        show_facts(console(), [(name, f"{found[key]:g} {unit}") for key, (name, unit) in names.items()])


def show_findings(found: dict[str, Any]) -> None:
    """What `edgessl.doctor.report` found, as tables."""
    machine, show = found["machine"], console()
    memory = f", {machine['memory_gb']:g} GB" if machine["memory_gb"] is not None else ""
    show.print(f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['system']}", style="bold", soft_wrap=True)
    checks = _columns(2)
    for check in found["checks"]:
        checks.add_row(_mark(check["status"]), check["name"], check["found"], Text(check["advice"], WARNING))
    show.print(checks)
    show.print("\nwhat works", style="bold")
    works = _columns(1)
    for capability in found["capabilities"]:
        works.add_row(_mark("ok" if capability["works"] else "missing"), capability["name"], capability["why"])
    show.print(works)


def _columns(folded: int) -> Table:
    """A mark, a name, and `folded` columns of text."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(no_wrap=True, style=QUIET)
    for _ in range(folded):
        table.add_column(overflow="fold")
    return table


def _mark(status: str) -> Text:
    mark, style = _MARKS[status]
    return Text(mark, style)
