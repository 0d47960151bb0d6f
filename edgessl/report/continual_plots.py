"""Figures of a continual comparison: accuracy matrices as heat maps, accuracy along the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from edgessl.report.svg import CLASSES, INK, MUTED, OURS, RULE, STYLE, WIDTH, figure, to_svg

Array = np.ndarray[Any, np.dtype[Any]]
ACROSS = 3  # heat maps side by side
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


def heat_maps(name: str, matrices: Mapping[str, Array], contexts: Sequence[str]) -> str:
    """One panel per strategy: rows are judgements in time, the first before any learning, columns are contexts.

    Args:
        name: unique in the page.
        matrices: strategy -> accuracies (T + 1, T) in [0, 1]; the shade goes from the least to the greatest of all.
        contexts: names of the T contexts.
    """
    low, high = min(float(m.min()) for m in matrices.values()), max(float(m.max()) for m in matrices.values())
    rows, columns = -(-len(matrices) // ACROSS), min(ACROSS, len(matrices))
    with matplotlib.rc_context(STYLE):
        drawing = figure(rows * (WIDTH / columns) * 1.1 + 10)
        drawing.set_layout_engine("constrained")
        grid = drawing.subplots(rows, columns, squeeze=False).flat
        for axes, (strategy, matrix) in zip(grid, matrices.items(), strict=False):
            _heat_map(axes, matrix, low, max(high - low, 1e-9), contexts)
            axes.set_title(strategy)
        for axes in list(grid):
            axes.set_axis_off()
    said = "; ".join(f"{s} ends at {', '.join(f'{100 * v:.0f}' for v in m[-1])} %" for s, m in matrices.items())
    return to_svg(drawing, f"heat-{name}", f"Accuracy by context after each context: {said}.")


def along_the_stream(name: str, curves: Mapping[str, tuple[Sequence[int], Array]]) -> str:
    """Mean accuracy in percent over all contexts against samples seen: strategy -> (positions, accuracies)."""
    with matplotlib.rc_context(STYLE):
        drawing = figure(330)
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots()
        for i, (strategy, (positions, values)) in enumerate(curves.items()):
            color, dash = CLASSES[i % len(CLASSES)], DASHES[i // len(CLASSES) % len(DASHES)]
            axes.plot(positions, 100 * values, linewidth=1.8, label=strategy, color=color, linestyle=dash)
        axes.set_xlabel("samples seen")
        axes.set_ylabel("accuracy on all contexts, %")
        axes.tick_params(length=0, labelcolor=MUTED)
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        drawing.legend(frameon=False, labelcolor=INK, loc="outside right upper", fontsize=11)
    said = "; ".join(f"{s} {100 * v[0]:.1f} to {100 * v[-1]:.1f} %" for s, (_, v) in curves.items())
    return to_svg(drawing, f"stream-{name}", f"Mean accuracy over all contexts along the stream: {said}.")


def _heat_map(axes: Axes, matrix: Array, low: float, span: float, contexts: Sequence[str]) -> None:
    height, width = matrix.shape
    for i in range(height):
        for j in range(width):
            shade = 0.06 + 0.74 * float((matrix[i, j] - low) / span)
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=OURS, alpha=shade, linewidth=0))
            if width <= 7:
                text = f"{100 * matrix[i, j]:.0f}"
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=10, color=INK)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks(np.arange(width) + 0.5, [str(c)[:7] for c in contexts], rotation=45, fontsize=9)
    axes.set_yticks(np.arange(height) + 0.5, ["start", *(str(c)[:7] for c in contexts)], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
