"""The demo's results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from edgessl.report.results import read_results


def demo_table(data: Mapping[str, Any]) -> Table:
    """A rich table of `data` (a demo's report.json): mean ± standard deviation over seeds, in percent.

    Raises:
        InputError: a required figure is missing or out of range.
    """
    results = read_results(data)
    seeds = len(results.tables[0].rows[0].accuracy.seeds)
    table = Table(
        title="edgessl demo",
        caption=f"mean ± std over {seeds} {'seed' if seeds == 1 else 'seeds'}; {results.total_seconds:.0f} s in all",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what")
    table.add_column("accuracy", justify="right")
    for section in results.tables:
        table.add_row(f"[bold]{section.title}[/bold]", "")
        for row in section.rows:
            strong = row.role != "baseline"
            table.add_row(f"  {row.label}", str(row.accuracy), style="" if strong else "dim")
        table.add_section()
    return table
