"""Reports of a demo run: a self-contained HTML page and a table for the terminal, from the same report.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["demo_report", "demo_table"]


def demo_report(data: Mapping[str, Any], path: Path) -> None:
    """Write the HTML page of a demo run; see `edgessl.report.html.demo_report`."""
    from edgessl.report import html

    html.demo_report(data, path)


def demo_table(data: Mapping[str, Any]) -> Table:
    """The results of a demo run for the terminal; see `edgessl.report.table.demo_table`."""
    from edgessl.report import table

    return table.demo_table(data)
