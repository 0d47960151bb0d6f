"""The HTML page of a continual comparison: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.device.storage.files import write_atomically
from edgessl.errors import MissingDependencyError
from edgessl.report.html import TEMPLATES, missing, render

Array = np.ndarray[Any, np.dtype[Any]]
SHOWN = 9  # heat maps and curves per stream: references and the best


@dataclass(frozen=True)
class Comparison:
    """One stream and objective.

    Attributes:
        key: unique in the page.
        headings, rows: the table as text, the strategy first.
        roles: strategy -> "baseline" or "ours".
        matrices: strategy -> accuracies (T + 1, T), mean over seeds, in the table's order.
        positions: samples seen at each judgement (T + 1,).
        contexts: names.
        caption: how it was measured.
    """

    key: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    roles: Mapping[str, str]
    matrices: Mapping[str, Array]
    positions: Sequence[int]
    contexts: Sequence[str]
    caption: str


def continual_report(comparisons: Sequence[Comparison], machine: Mapping[str, Any], path: Path) -> None:
    """Write the page to `path`.

    Raises:
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    try:
        from edgessl.report import continual_plots as plots
    except ImportError as error:
        raise MissingDependencyError(missing("matplotlib", error)) from error
    drawn = []
    for found in comparisons:
        shown = dict(list(found.matrices.items())[:SHOWN])
        curves = {name: (found.positions, matrix.mean(axis=1)) for name, matrix in shown.items()}
        stream, heat = plots.along_the_stream(found.key, curves), plots.heat_maps(found.key, shown, found.contexts)
        drawn.append((found, stream, heat))
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    text = render("continual.html.j2", {"comparisons": drawn, "machine": machine, "css": css})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
