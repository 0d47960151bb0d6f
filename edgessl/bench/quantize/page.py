"""The quantize bench as Markdown: `python -m edgessl.bench.quantize.page examples/results/quantize.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edgessl.bench.quantize.accuracy import FLOAT, METHODS, Row, exact
from edgessl.bench.results import spread


def speed_table(rows: Sequence[Row]) -> str:
    """Size and latency, a line per encoder and form; of quantized forms how many times faster than what."""
    head = (
        "| encoder | form | kB | ms, batch 1 | ms, batch 32 | times fp32 as the learner runs it | "
        "times fp32, weights constant | times fp32, all optimizations | times torch eager |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['encoder']} | {row['form']} | {row['error']} |")
            continue
        faster = row.get("faster_than", {})
        order = ("fp32, weights an input", "fp32", "fp32, all optimizations", "torch eager")
        ratios = [" / ".join(f"{x:.2f}" for x in faster[name]) if name in faster else "" for name in order]
        size = f"{row['bytes'] / 1000:.0f}" if "bytes" in row else ""
        figures = [row["encoder"], row["form"], size, f"{row['ms_1']:.3f}", f"{row['ms_32']:.2f}", *ratios]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def accuracy_table(rows: Sequence[Row]) -> str:
    """Encoders trained in float: means and standard deviations over the seeds; kNN and linear probe of quantized forms
    minus the float form of the same seed, in points."""
    lines = [
        "| case | method | cosine | neighbours kept | kNN, % | difference | linear probe, % | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (case, method), found in _groups(rows, FLOAT).items():
        reference = _by_seed(rows, case, FLOAT, FLOAT)
        figures = [case, method, _mean(found, "cosine_mean", 1, 4), _mean(found, "neighbor_overlap", 1, 3)]
        for name in ("knn", "linear"):
            figures += [_mean(found, name, 100, 1), "" if method == FLOAT else _difference(found, reference, name)]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def aware_table(rows: Sequence[Row]) -> str:
    """Rounding while training beside rounding afterwards, both in integers at the end: a line per case and bits; the
    differences, in points, are of the same seeds."""
    lines = [
        "| case | bits | kNN, rounded afterwards | while training | difference | linear probe, afterwards | "
        "while training | difference | cosine to its own float form | while training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    trainings = {(r["case"], r["trained"]) for r in rows if r["trained"] != FLOAT}
    for case, trained in sorted(trainings, key=lambda key: (key[0], -int(key[1].split()[1]))):
        bits = int(trained.split()[1])
        aware = list(_by_seed(rows, case, trained, exact(bits)).values())
        after = _by_seed(rows, case, FLOAT, exact(bits))
        figures = [case, str(bits)]
        for name in ("knn", "linear"):
            figures += [_mean(list(after.values()), name, 100, 1), _mean(aware, name, 100, 1)]
            figures.append(_difference(aware, after, name))
        figures += [_mean(list(after.values()), "cosine_mean", 1, 4), _mean(aware, "cosine_mean", 1, 4)]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def _groups(rows: Sequence[Row], trained: str) -> dict[tuple[str, str], list[Row]]:
    """The rows of that training by case, in the order of the rows, and method, in the order of METHODS."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    methods = [FLOAT, *METHODS]
    keys = [(case, method) for case in cases for method in methods]
    found = {key: [r for r in rows if (r["case"], r["method"]) == key and r["trained"] == trained] for key in keys}
    return {key: group for key, group in found.items() if group}


def _by_seed(rows: Sequence[Row], case: str, trained: str, method: str) -> dict[int, Row]:
    return {r["seed"]: r for r in rows if (r["case"], r["trained"], r["method"]) == (case, trained, method)}


def _difference(rows: Sequence[Row], reference: dict[int, Row], name: str) -> str:
    return spread([100 * (row[name] - reference[row["seed"]][name]) for row in rows], 2, "+")


def _mean(rows: Sequence[Row], name: str, factor: float, digits: int) -> str:
    return spread([factor * row[name] for row in rows], digits)


def main() -> None:
    """Print the tables of the file that the first argument names."""
    result = json.loads(Path(sys.argv[1]).read_text())
    rows = result["accuracy"]
    print(speed_table(result["speed"]), accuracy_table(rows), aware_table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
