"""The evaluation report's figures, each a function from plain data to an `<svg>` element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from edgessl.report.plots import ROLES
from edgessl.report.svg import INK, MUTED, RULE, STYLE, figure, to_svg

Rows = Sequence[Mapping[str, Any]]
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def spectra(rows: Rows) -> str:
    """Singular values of the centred embeddings, each row's largest at 1, on a logarithmic axis."""
    lines = [(row, np.maximum(row["details"]["collapse"]["spectrum"], 1e-8)) for row in rows]
    said = "; ".join(f"{row['name']}: {_above(values)} of {len(values)} above a hundredth" for row, values in lines)
    return _curves(
        "spectra",
        [(row, np.arange(1, len(values) + 1), values) for row, values in lines],
        ("dimension", "singular value / largest"),
        f"Spectra of the embeddings, {said}.",
        log_y=True,
    )


def efficiency(rows: Rows) -> str:
    """Accuracy in percent over the number of labels, on a logarithmic axis."""
    found = [(row, row["details"]["label_efficiency"]) for row in rows]
    ends = [f"{row['name']} {100 * c['accuracy'][0]:.1f} to {100 * c['accuracy'][-1]:.1f} %" for row, c in found]
    return _curves(
        "efficiency",
        [(row, np.array(c["labels"]), 100 * np.array(c["accuracy"])) for row, c in found],
        ("labels", "accuracy, %"),
        f"Accuracy of a linear probe over the number of labels: {'; '.join(ends)}.",
        log_x=True,
    )


def severities(rows: Rows) -> str:
    """Mean accuracy in percent over corruptions, clean and at severities 1 to 5."""
    found = [(row, [row["details"]["corruptions"][key] for key in ("clean", "by_severity")]) for row in rows]
    values = [(row, 100 * np.array([clean, *by])) for row, (clean, by) in found]
    said = "; ".join(f"{row['name']} {y[0]:.1f} to {y[-1]:.1f} %" for row, y in values)
    return _curves(
        "severities",
        [(row, np.arange(len(y)), y) for row, y in values],
        ("severity (0: clean)", "accuracy, %"),
        f"Accuracy over the severity of corruptions, clean to severity 5: {said}.",
    )


def attacks(rows: Rows) -> str:
    """Accuracy in percent under PGD over the radius in standard deviations; rows without gradients are left out."""
    found = [(row, row["details"]["adversarial"]) for row in rows if "adversarial" in row["details"]]
    said = "; ".join(f"{row['name']} {100 * a['pgd'][0]:.1f} to {100 * a['pgd'][-1]:.1f} %" for row, a in found)
    return _curves(
        "attacks",
        [(row, np.array(a["radii"]), 100 * np.array(a["pgd"])) for row, a in found],
        ("radius, standard deviations", "accuracy, %"),
        f"Accuracy under projected gradient descent over its radius: {said}.",
    )


def groups(name: str, table: Mapping[str, Any]) -> str:
    """Accuracy of each group with its 95 % interval, the worst first; small groups are hollow."""
    rows = sorted(table["rows"], key=lambda row: row["accuracy"])
    height = 24 * len(rows) + 44
    with matplotlib.rc_context(STYLE):
        drawing = figure(height)
        axes = drawing.add_axes((0.2, 30 / height, 0.76, (height - 36) / height))
        for y, row in enumerate(rows):
            color = ROLES["ours"]
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=color, linewidth=2, alpha=0.45)
            fill = "none" if row["small"] else color
            axes.plot(100 * row["accuracy"], y, "o", markersize=6, color=color, markerfacecolor=fill)
        axes.set_yticks(range(len(rows)), [f"{row['group']} ({row['n']})" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        _plain(axes, "x")
        axes.spines["bottom"].set_visible(False)
    said = "; ".join(f"{row['group']} {100 * row['accuracy']:.1f} %" for row in rows)
    return to_svg(drawing, f"groups-{name}", f"Accuracy by {name}, worst first: {said}.")


def _curves(
    name: str,
    lines: Sequence[tuple[Mapping[str, Any], Any, Any]],
    axis_labels: tuple[str, str],
    said: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    with matplotlib.rc_context(STYLE):
        drawing = figure(290)
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots()
        seen: dict[str, int] = {}
        for row, x, y in lines:
            dash = DASHES[seen.setdefault(row["role"], 0) % len(DASHES)]
            seen[row["role"]] += 1
            axes.plot(x, y, color=ROLES[row["role"]], linestyle=dash, linewidth=1.8, label=row["name"])
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(lines[0][1], [f"{n:,}" for n in lines[0][1]])
            axes.xaxis.set_minor_locator(NullLocator())
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        _plain(axes, "y")
        axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=12)
    return to_svg(drawing, name, said)


def _plain(axes: Axes, grid: str) -> None:
    axes.tick_params(length=0, labelcolor=MUTED)
    axes.grid(axis="x" if grid == "x" else "y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _above(values: Any) -> int:
    return int((np.asarray(values) > 0.01).sum())
