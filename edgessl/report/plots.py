"""The demo report's figures, each a function from plain data to an `<svg>` element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from edgessl.errors import InputError
from edgessl.report.results import Table
from edgessl.report.svg import (
    BASELINE,
    CLASSES,
    INK,
    MUTED,
    OURS,
    PAGE,
    RULE,
    STYLE,
    VARIANT,
    WIDTH,
    figure,
    to_svg,
)

ROLES = {"baseline": BASELINE, "ours": OURS, "variant": VARIANT}
TITLES = {"embedding_std": "embedding std", "effective_rank": "effective rank"}
LEFT, RIGHT = 0.235, 0.84  # of the bars' axes, in figure widths; labels left of it, figures right of it
OUTER = (1 - LEFT) / (RIGHT - LEFT)  # the figure's right edge in axes widths
SMOOTHED = 40  # from this many points on, a running mean is drawn over the raw curve


def bars(table: Table) -> str:
    """A bar per row from 0 to 100 %, a dot per seed, the standard deviation as an error bar, the mean as text."""
    height = 34 * len(table.rows) + 34
    with matplotlib.rc_context(STYLE):
        drawing = figure(height)
        axes = drawing.add_axes((LEFT, 26 / height, RIGHT - LEFT, (height - 30) / height))
        for y, row in enumerate(table.rows):
            color, accuracy = ROLES[row.role], row.accuracy
            axes.barh(y, 100 * accuracy.mean, height=0.62, color=PAGE, linewidth=0)  # hides the grid
            axes.barh(y, 100 * accuracy.mean, height=0.62, color=color, alpha=0.28, linewidth=0)
            spread = np.linspace(-0.16, 0.16, len(accuracy.seeds)) if len(accuracy.seeds) > 1 else [0.0]
            axes.errorbar(100 * accuracy.mean, y, xerr=100 * accuracy.std, color=INK, elinewidth=1.6, zorder=3)
            axes.scatter(
                100 * np.array(accuracy.seeds), y + np.array(spread), s=22, color=color, zorder=4, linewidths=0
            )
            across = axes.get_yaxis_transform()
            for x, text, side in ((-LEFT / (RIGHT - LEFT), row.label, "left"), (OUTER, str(accuracy), "right")):
                axes.text(x, y, text, transform=across, ha=side, va="center", color=INK, fontsize=13)
        axes.set_yticks([])
        axes.set_ylim(len(table.rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        axes.tick_params(axis="x", length=0, pad=6)
        axes.grid(axis="x", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines[["left", "bottom"]].set_visible(False)
    said = "; ".join(f"{row.label} {row.accuracy}" for row in table.rows)
    return to_svg(drawing, f"bars-{table.key}", f"Bar chart of accuracies, mean and standard deviation: {said}.")


def curves(name: str, series: Mapping[str, Sequence[float]]) -> str:
    """Small panels side by side, one per series, over the shared x, which is "step" or "round".

    Raises:
        InputError: there is no x, or a series has another length.
    """
    over = next((key for key in ("step", "round") if key in series), None)
    panels = [key for key in series if key != over]
    if over is None or not panels or any(len(series[key]) != len(series[over]) for key in panels):
        found = {key: len(values) for key, values in series.items()}
        raise InputError(
            f"report data: curves.{name}: expected 'step' or 'round' and series of its length, found {found}"
        )
    columns = max(3, len(panels))  # a single panel keeps the width of a third
    with matplotlib.rc_context(STYLE):
        drawing = figure(190)
        drawing.set_layout_engine("constrained")
        grid = drawing.subplots(1, columns)
        for axes, key in zip(grid, panels, strict=False):
            _curve(axes, np.asarray(series[over], float), np.asarray(series[key], float))
            axes.set_title(TITLES.get(key, key))
            axes.set_xlabel(over)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
    said = "; ".join(
        f"{TITLES.get(k, k)} from {series[k][0]:.3g} to {series[k][-1]:.3g}" for k in panels if len(series[k])
    )
    return to_svg(drawing, f"curves-{name}", f"Curves over {len(series[over])} points of {over}: {said}.")


def _curve(axes: Axes, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    smooth = len(x) >= SMOOTHED
    axes.plot(x, y, color=OURS, linewidth=1 if smooth else 1.8, alpha=0.35 if smooth else 1)
    if smooth:
        window = max(5, len(x) // 20)
        means = np.convolve(y, np.ones(window) / window, "valid")
        start = (window - 1) // 2
        axes.plot(x[start : start + len(means)], means, color=OURS, linewidth=1.8)
    elif len(x) <= 12:
        axes.plot(x, y, "o", color=OURS, markersize=4.5, markeredgewidth=0)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.margins(x=0.03, y=0.12)


def scatter(embedding: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """2-D points colored by label, one panel per key of `titles`; the label is written at each class's centre.

    Args:
        embedding: panel -> {"points": (N, 2), "labels": (N,)}.
        titles: panel -> title.

    Raises:
        InputError: a panel is missing or its shapes differ.
    """
    with matplotlib.rc_context(STYLE):
        drawing = figure(WIDTH / 2 - 10)
        drawing.set_layout_engine("constrained")
        for axes, (key, title) in zip(drawing.subplots(1, len(titles)), titles.items(), strict=True):
            panel = embedding.get(key, {})
            points, labels = np.asarray(panel.get("points", []), float), np.asarray(panel.get("labels", []))
            if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
                raise InputError(
                    f"report data: embedding.{key}: expected points (N, 2) and labels (N,), "
                    f"found {points.shape} and {labels.shape}"
                )
            for i, label in enumerate(np.unique(labels)):
                own, color = points[labels == label], CLASSES[i % len(CLASSES)]
                axes.scatter(*own.T, s=13, color=color, alpha=0.75, linewidths=0)
                box = {"boxstyle": "round,pad=0.28", "facecolor": PAGE, "edgecolor": color, "linewidth": 1.2}
                axes.text(
                    *np.median(own, axis=0), str(label), fontsize=11, ha="center", va="center", bbox=box, zorder=5
                )
            axes.set_title(title)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.patch.set_facecolor(MUTED)
            axes.patch.set_alpha(0.06)
            axes.margins(0.06)
    count = ", ".join(f"{len(embedding[key]['labels'])} points {title.lower()}" for key, title in titles.items())
    return to_svg(drawing, "scatter", f"Scatter plots of the first two principal components: {count}.")
