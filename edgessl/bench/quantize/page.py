"""The quantize bench as Markdown: `python -m edgessl.bench.quantize.page examples/results/quantize.json`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


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
    """Means and standard deviations over the seeds; kNN and linear probe of quantized forms minus the float encoder of
    the same training and seed, in points."""
    lines = [
        "| case | trained | method | cosine | neighbours kept | kNN, % | difference | linear probe, % | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    floats = {(r["case"], r["trained"], r["seed"]): r for r in rows if r["method"] == "float"}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["trained"], row["method"]), []).append(row)
    for (case, trained, method), found in groups.items():
        figures = [case, trained, method]
        figures += [_mean(found, "cosine_mean", 1, 4), _mean(found, "neighbor_overlap", 1, 3)]
        for name in ("knn", "linear"):
            figures.append(_mean(found, name, 100, 1))
            pairs = [r[name] - floats[case, trained, r["seed"]][name] for r in found]
            figures.append("" if method == "float" else _spread([100 * p for p in pairs], 2, "+"))
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def _mean(rows: Sequence[Row], name: str, factor: float, digits: int) -> str:
    return _spread([factor * row[name] for row in rows], digits)


def _spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    """Print both tables of the file that the first argument names."""
    result = json.loads(Path(sys.argv[1]).read_text())
    print(speed_table(result["speed"]), accuracy_table(result["accuracy"]), sep="\n\n")


if __name__ == "__main__":
    main()
