"""matplotlib figures as inline SVG that follows the page: its font, and its colors in light and dark."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# name of the page's CSS variable -> the color that stands for it while matplotlib draws
INK, MUTED, RULE, PAGE = "#010203", "#020203", "#030203", "#040203"
BASELINE, OURS, VARIANT = "#050203", "#060203", "#070203"
CLASSES = tuple(f"#0a02{i:02x}" for i in range(10))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAGE: "page",
    BASELINE: "baseline",
    OURS: "ours",
    VARIANT: "variant",
    **{color: f"class-{i}" for i, color in enumerate(CLASSES)},
}

STYLE: dict[Any, Any] = {
    "figure.dpi": 72,  # one unit of the drawing is one CSS pixel at full width
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 12,
    "font.size": 12,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "svg.fonttype": "none",  # text stays text: searchable, read aloud, in the page's font
    "svg.hashsalt": "edgessl",  # the same figure gives the same bytes
}
WIDTH = 720  # pixels


def figure(height: float) -> Figure:
    """An empty figure as wide as the page's column; `height` in pixels. Draw inside `matplotlib.rc_context(STYLE)`."""
    return Figure(figsize=(WIDTH / 72, height / 72))


def to_svg(drawing: Figure, name: str, description: str) -> str:
    """The `<svg>` element of a figure.

    Args:
        drawing: what was drawn with the colors above.
        name: unique in the page; makes the element's internal ids unique.
        description: what a reader who does not see it should know.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # the family is the page's; matplotlib before 3.10 writes one `font`, later ones `font-size` and `font-family`
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"#0[1-7a]02[0-9a-f]{2}", lambda m: f"var(--{_VARIABLES[m[0]]})", text)
    size = re.search(r'viewBox="0 0 [\d.]+ [\d.]+"', text)
    assert size is not None
    head = f'<svg {size[0]} role="img" aria-label="{escape(description)}" class="plot"'
    head += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + text[text.index(">") + 1 :]
