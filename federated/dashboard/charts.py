"""The page's charts: matplotlib, as SVG in the page's own colors."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edgessl.report.svg import BASELINE, MUTED, OURS, RULE, STYLE, VARIANT, to_svg
from federated.dashboard.summary import Summary

_WIDTH, _HEIGHT = 540, 215  # pixels: what a column of the page is wide, so that text has its own size


def charts(found: Summary) -> list[tuple[str, str, str]]:
    """(title, SVG, caption) of every chart that the rounds so far have figures for."""
    if not found.rounds:
        return []
    with matplotlib.rc_context(STYLE):
        made = [
            _replies(found),
            _bytes(found),
            _lines(found, "loss", [("loss", OURS, "loss")], "Weighted by samples seen."),
            _representation(found),
            _lines(
                found, "seconds of a round", [("seconds", OURS, "seconds")], "From the first message to the last reply."
            ),
            _lines(
                found,
                "privacy spent",
                [("epsilon", VARIANT, "epsilon")],
                "Epsilon of all releases so far; see its delta above.",
            ),
        ]
    return [chart for chart in made if chart is not None]


def _replies(found: Summary) -> tuple[str, str, str]:
    numbers = [int(r["round"]) for r in found.rounds]
    good = [int(r.get("clients", 0)) for r in found.rounds]
    bad = [len(r.get("failures", {})) for r in found.rounds]
    drawing, axes = _axes(numbers)
    axes.bar(numbers, good, width=0.72, color=OURS, label="used")
    axes.bar(numbers, bad, width=0.72, bottom=good, color=VARIANT, label="failed")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _legend(axes)
    svg = to_svg(drawing, "replies", f"Replies in {len(numbers)} rounds; the last: {good[-1]} used, {bad[-1]} failed")
    return "Replies", svg, "Devices whose weights are in the mean, and those that failed or were refused."


def _bytes(found: Summary) -> tuple[str, str, str]:
    numbers = [int(r["round"]) for r in found.rounds]
    drawing, axes = _axes(numbers)
    for key, color, label in (("bytes_down", BASELINE, "to the devices"), ("bytes_up", OURS, "from the devices")):
        _line(axes, numbers, [float(r.get(key, 0)) for r in found.rounds], color, label)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    axes.set_ylim(bottom=0)
    _legend(axes)
    last = found.rounds[-1]
    words = f"Last round {size(last.get('bytes_down', 0))} down, {size(last.get('bytes_up', 0))} up"
    return "Traffic", to_svg(drawing, "bytes", words), "Bytes of messages per round, as encoded."


def _representation(found: Summary) -> tuple[str, str, str] | None:
    title, caption = (
        "Representation",
        "A collapsing encoder falls in both: means over the devices of the rank and spread of embeddings.",
    )
    ranks, spread = found.series("effective-rank"), found.series("embedding-std")
    if not ranks[0] and not spread[0]:
        return None
    drawing, axes = _axes(ranks[0] or spread[0])
    if ranks[0]:
        _line(axes, *ranks, OURS, "effective rank")
        axes.set_ylim(bottom=0)
    if spread[0]:
        other = axes.twinx() if ranks[0] else axes
        _line(other, *spread, VARIANT, "embedding std (right)" if ranks[0] else "embedding std")
        other.set_ylim(bottom=0)
        other.tick_params(length=0)
        if other is not axes:
            handles = [h for a in (axes, other) for h in a.get_lines()]
            axes.legend(handles, [h.get_label() for h in handles], **_LEGEND)
    else:
        _legend(axes)
    return title, to_svg(drawing, "representation", "Effective rank and embedding std by round"), caption


def _lines(
    found: Summary, name: str, wanted: Sequence[tuple[str, str, str]], caption: str
) -> tuple[str, str, str] | None:
    series = [(found.series(key), color, label) for key, color, label in wanted]
    if not any(numbers for (numbers, _), _, _ in series):
        return None
    drawing, axes = _axes(series[0][0][0])
    for (numbers, values), color, label in series:
        _line(axes, numbers, values, color, label)
    if min(min(values) for (_, values), _, _ in series if values) >= 0:
        axes.set_ylim(bottom=0)
    values = series[0][0][1]
    svg = to_svg(drawing, name.replace(" ", "-"), f"{name}: {values[-1]:.4g} in the last round")
    return name.capitalize(), svg, caption


_LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 2,
    "frameon": False,
    "labelcolor": MUTED,
    "borderaxespad": 0,
}


def _axes(numbers: Sequence[int]) -> tuple[Any, Any]:
    drawing = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
    axes = drawing.add_axes((0.11, 0.2, 0.82, 0.68))
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("round")
    axes.set_xlim(numbers[0] - 0.6, max(numbers[-1], numbers[0] + 4) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return drawing, axes


def _line(axes: Any, numbers: Sequence[int], values: Sequence[float], color: str, label: str) -> None:
    marker = {"marker": "o", "markersize": 4} if len(numbers) < 40 else {}
    axes.plot(numbers, values, color=color, linewidth=2, label=label, **marker)


def _legend(axes: Any) -> None:
    axes.legend(**_LEGEND)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return (
                f"{count:.0f} {unit}" if unit == "B" or count >= 100 or count == int(count) else f"{count:.1f} {unit}"
            )
        count /= 1000
    raise AssertionError
