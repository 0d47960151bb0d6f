"""The benches as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

FIGURES = (
    ("median_ms", ".1f"),
    ("ratio_to_torch", ".2f"),
    ("peak_rss_mb", ".0f"),
    ("import_s", ".2f"),
    ("compile_s", ".0f"),
    ("installed_mb", ".0f"),
)
PRETRAIN_FIGURES = (
    ("views_per_s", ",.0f"),
    ("ratio", ".2f"),
    ("input_wait_share", ".1%"),
    ("fraction_of_peak", ".1%"),
    ("peak_rss_mb", ".0f"),
)


def step_table(result: Mapping[str, Any]) -> Table:
    """A rich table of what the bench returned: one line per row, one section per encoder and threads."""
    cores, cpu = result["machine"]["cores"], result["machine"]["cpu"]
    notes = [f"{cpu}, {cores} cores, batches of {result['settings']['batch_size']}", *result["warnings"]]
    failed = [row for row in result["rows"] if row["error"] is not None]
    notes += [f"{row['encoder']}, {row['backend']}, {row['threads']} threads: {row['error']}" for row in failed]
    table = Table(
        title="one training step", caption=Text("\n".join(notes)), title_justify="left", caption_justify="left"
    )
    table.add_column("encoder")
    for name in ("threads", "backend"):
        table.add_column(name, justify="right" if name == "threads" else "left")
    for name in ("ms", "x torch", "peak MB", "import s", "compile s", "disk MB"):
        table.add_column(name, justify="right")
    previous = None
    for row in result["rows"]:
        group = (row["encoder"], row["threads"])
        if previous not in (None, group):
            table.add_section()
        head = (row["encoder"], str(row["threads"])) if group != previous else ("", "")
        previous = group
        if row["error"] is not None:
            table.add_row(*head, row["backend"], Text("failed", "red"))
            continue
        table.add_row(*head, row["backend"], *(_text(row[key], form) for key, form in FIGURES))
    return table


def pretrain_table(result: Mapping[str, Any]) -> Table:
    """A rich table of what `edgessl.bench.pretrain.run.run` returned: one line per row, one section per device."""
    settings = result["settings"]
    cores, cpu = result["machine"]["cores"], result["machine"]["cpu"]
    notes = [f"{cpu}, {cores} cores; SimCLR, batches of {settings['batch_size']} samples", *result["warnings"]]
    notes += result["skipped"]
    notes += [f"{row['backend']}, {row['threads']} threads: {row['error']}" for row in result["rows"] if row["error"]]
    table = Table(title="pretraining", caption=Text("\n".join(notes)), title_justify="left", caption_justify="left")
    for name in ("encoder", "device"):
        table.add_column(name)
    table.add_column("threads", justify="right")
    table.add_column("backend")
    for name in ("views/s", "x torch", "waiting", "of peak", "peak MB"):
        table.add_column(name, justify="right")
    previous = None
    for row in result["rows"]:
        group = (row["encoder"], row["device"], str(row["threads"]))
        if previous not in (None, group):
            table.add_section()
        head = group if group != previous else ("", "", "")
        previous = group
        if row["error"] is not None:
            table.add_row(*head, row["backend"], Text("failed", "red"))
            continue
        table.add_row(*head, row["backend"], *(_text(row[key], form) for key, form in PRETRAIN_FIGURES))
    return table


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
