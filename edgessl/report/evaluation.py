"""The HTML page of an evaluation: one file, no script, nothing fetched; report.json beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgessl.device.storage.files import write_atomically
from edgessl.errors import InputError, MissingDependencyError
from edgessl.report.html import TEMPLATES, flat, missing, render

SECTIONS = {
    "Nearest neighbours and probes": ("knn", "linear", "fine-tuned"),
    "Few labels": ("1-shot", "5-shot", "10-shot", "1%", "10%", "area"),
    "Retrieval": ("mAP", "R@"),
    "Two modalities": ("pairs", "zero-shot"),
    "Robustness": ("corrupted", "OOD", "PGD"),
}
CAPTIONS = {
    "Nearest neighbours and probes": "Accuracy on the test split, percent",
    "Few labels": "Accuracy with few labels, percent, mean over seeded draws; the area is that of the curve below",
    "Retrieval": "Test samples retrieve training samples of their class; percent",
    "Two modalities": "One side finds its other in the test split; classes by the other side's prototypes; percent",
    "Robustness": "Accuracy under corruptions and PGD, AUROC of out-of-distribution scores (50 is chance); percent",
}
NOTES = {
    "Few labels": "A linear probe on more and more labels. The supervised encoder saw every label before.",
    "Robustness": "Mean over corruptions by severity; below, accuracy under PGD by its radius.",
}
COLLAPSE = {
    "rankme": "RankMe",
    "std_mean": "Mean std",
    "std_min": "Least std",
    "dead_dimensions": "Dead dimensions",
    "uniformity": "Uniformity",
    "alignment": "Alignment",
}


def evaluation_report(data: Mapping[str, Any], path: Path) -> None:
    """Write the page of an evaluation (what `edgessl.evaluate.suite.evaluate` returned) to `path`, and the data beside.

    Raises:
        InputError: `data` is not an evaluation's.
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    for key in ("protocol", "results", "skipped", "subject", "machine", "versions", "seconds"):
        if key not in data:
            raise InputError(f"evaluation report: {key!r} is missing; give what edgessl evaluate --json printed")
    text = render("evaluation.html.j2", {"data": data, **_context(data)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    plain = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path.with_suffix(".json"), plain.encode())


def _context(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from edgessl.report import evaluation_plots as plots
    except ImportError as error:
        raise MissingDependencyError(missing("matplotlib", error)) from error
    rows, probes = data["results"], data["protocol"]["probes"]
    shown = [probe for probe in probes if any(probe in row["figures"] for row in rows)]
    sections = [(title, found) for title, marks in SECTIONS.items() if (found := _chosen(shown, marks))]

    def plot(key: str, draw: Any) -> str:
        having = [row for row in rows if key in row["details"]]
        return draw(having) if having else ""

    return {
        "sections": sections,
        "captions": CAPTIONS,
        "notes": NOTES,
        "collapse": COLLAPSE,
        "spectra": plot("collapse", plots.spectra),
        "plots": {
            "Few labels": plot("label_efficiency", plots.efficiency),
            "Robustness": plot("corruptions", plots.severities) + plot("adversarial", plots.attacks),
        },
        "groups": [
            (name, table, plots.groups(name, table)) for name, table in rows[0]["details"].get("subgroups", {}).items()
        ],
        "protocol": list(flat({key: value for key, value in data["protocol"].items() if key != "probes"})),
        "probes": [(name, list(flat(settings))) for name, settings in probes.items()],
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
    }


def _chosen(probes: Sequence[str], marks: Sequence[str]) -> list[str]:
    """The probes whose name begins with one of `marks`."""
    return [p for p in probes if p.startswith(tuple(marks))]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
