"""Results of the continual bench: figures over seeds, the table for the terminal, CSV and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from edgessl.bench.continual.contenders import REFERENCES
from edgessl.continual.judge import KINDS
from edgessl.continual.metrics import matrix_csv, mean_and_std, recovered
from edgessl.device.storage.files import write_atomically

Json = Mapping[str, Any]

GAP = 0.01  # between fine-tuning and joint training; below it there is nothing to recover, only noise
TARGET = 0.6  # share of the gap
GAPS = ("gap", "gap, linear")
# figure of a row -> heading, factor, decimals
FIGURES = {
    "final_accuracy": ("final", 100, 1),
    "average_accuracy": ("average", 100, 1),
    "forgetting": ("forgetting", 100, 1),
    "backward_transfer": ("backward", 100, 1),
    "forward_transfer": ("forward", 100, 1),
    "plasticity": ("plasticity", 100, 1),
    "online_area": ("online", 100, 1),
    "knn_aware.final_accuracy": ("final, aware", 100, 1),
    "knn_aware.backward_transfer": ("backward, aware", 100, 1),
    "linear.final_accuracy": ("final, linear", 100, 1),
    "linear.backward_transfer": ("backward, linear", 100, 1),
}
TERMINAL = (
    *("final_accuracy", "average_accuracy", "forgetting", "backward_transfer"),
    *("knn_aware.final_accuracy", "linear.final_accuracy"),
)


@dataclass(frozen=True)
class Line:
    """One contender on one stream: figures over seeds, and the share of the gap between fine-tuning and joint training
    that its mean closes, by nearest neighbours and by the linear probe; NaN where there is no gap."""

    strategy: str
    figures: dict[str, dict[str, Any]]
    share: float
    linear_share: float


def lines(result: Json, objective: str, backend: str = "torch") -> list[Line]:
    """The contenders of one stream and objective, references first, then by final accuracy."""
    rows = [r for r in result["rows"] if (r["objective"], r["backend"]) == (objective, backend)]
    found = {}
    for name in dict.fromkeys(row["strategy"] for row in rows):
        own = [_flat(row) for row in rows if row["strategy"] == name]
        found[name] = {key: mean_and_std([row[key] for row in own]) for key in own[0]}

    by_neighbours, by_probe = (_shares(rows, key) for key in ("final_accuracy", "linear.final_accuracy"))
    ordered = sorted(
        found, key=lambda n: (REFERENCES.index(n) if n in REFERENCES else 99, -found[n]["final_accuracy"]["mean"])
    )
    return [Line(name, found[name], by_neighbours[name], by_probe[name]) for name in ordered]


def _shares(rows: Sequence[Json], key: str) -> dict[str, float]:
    """Share of the gap by strategy, each over the seeds it has; NaN unless joint training is better than fine-tuning
    with every seed, and by `GAP` on average."""
    by: dict[str, dict[int, float]] = {}
    for row in rows:
        by.setdefault(row["strategy"], {})[row["seed"]] = _flat(row)[key]
    low, high = by.get("finetune", {}), by.get("joint", {})
    seeds = sorted(set(low) & set(high))
    gaps = [high[seed] - low[seed] for seed in seeds]
    if not seeds or min(gaps) <= 0 or sum(gaps) < GAP * len(gaps):
        return dict.fromkeys(by, float("nan"))
    shares = {}
    for name, own in by.items():
        common = [seed for seed in seeds if seed in own]
        means = [sum(values[seed] for seed in common) / max(1, len(common)) for values in (low, high, own)]
        shares[name] = recovered(*means) if common else float("nan")
    return shares


def objectives_of(result: Json) -> list[str]:
    """The objectives measured on a stream, in the file's order."""
    return list(dict.fromkeys(row["objective"] for row in result["rows"]))


def contexts_of(result: Json) -> list[str]:
    """Names of a stream's contexts."""
    names: list[str] = result["rows"][0]["contexts"]
    return names


def best(found: Sequence[Line]) -> Line | None:
    """The contender of the highest final accuracy, references aside."""
    able = [line for line in found if line.strategy not in REFERENCES]
    return max(able, key=lambda line: line.figures["final_accuracy"]["mean"], default=None)


def continual_table(result: Json, objective: str) -> Table:
    """A rich table of one stream and objective."""
    seeds = len({row["seed"] for row in result["rows"]})
    table = Table(
        title=f"{result['stream']}, {objective}",
        caption=Text(f"percent, {seeds} seeds; {result['settings']['title']}"),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("strategy")
    for heading in (*(FIGURES[key][0] for key in TERMINAL), *GAPS):
        table.add_column(heading, justify="right")
    for line in lines(result, objective):
        table.add_row(line.strategy, *(cell(line.figures, key) for key in TERMINAL), *gaps(line))
    return table


def write_csv(result: Json, folder: Path) -> None:
    """The accuracy matrix of every contender, mean over seeds, as `matrix-STREAM-OBJECTIVE-STRATEGY.csv`."""
    for found in result["results"]:
        for objective in objectives_of(found):
            for strategy, matrix in _matrices(found, objective).items():
                path = folder / f"matrix-{found['stream']}-{objective}-{strategy}.csv"
                write_atomically(path, matrix_csv(matrix, contexts_of(found)).encode())


def write_report(result: Json, path: Path) -> None:
    """The HTML page of a bench; see `edgessl.report.continual`."""
    from edgessl.report.continual import Comparison, continual_report

    comparisons = []
    for found in result["results"]:
        for objective in objectives_of(found):
            own = lines(found, objective)
            comparisons.append(
                Comparison(
                    key=f"{found['stream']}-{objective}",
                    title=f"{found['stream']}, {objective}: {found['settings']['title']}",
                    headings=["strategy", *(FIGURES[key][0] for key in TERMINAL), *GAPS],
                    rows=[[x.strategy, *(cell(x.figures, k) for k in TERMINAL), *gaps(x)] for x in own],
                    roles={x.strategy: "baseline" if x.strategy in REFERENCES else "ours" for x in own},
                    matrices=_matrices(found, objective),
                    positions=next(r["positions"] for r in found["rows"] if r["objective"] == objective),
                    contexts=contexts_of(found),
                    caption=caption({**found, "machine": result["machine"]}),
                )
            )
    continual_report(comparisons, result["machine"], path)


def _matrices(result: Json, objective: str, backend: str = "torch") -> dict[str, Any]:
    """Strategy -> accuracies (T + 1, T) by nearest neighbours, pooled, mean over seeds; in the order of `lines`."""
    rows = [r for r in result["rows"] if (r["objective"], r["backend"]) == (objective, backend)]
    return {
        line.strategy: np.mean([r["matrices"]["knn"] for r in rows if r["strategy"] == line.strategy], axis=0)
        for line in lines(result, objective, backend)
    }


def _flat(row: Json) -> dict[str, float]:
    figures = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k != "seed"}
    for kind in KINDS:
        figures |= {f"{kind}.{name}": value for name, value in row.get(kind, {}).items()}
    return figures


def cell(figures: Mapping[str, Json], key: str) -> str:
    """One figure as text: mean and sample standard deviation, which one seed does not have."""
    _, factor, decimals = FIGURES[key]
    mean, std = factor * figures[key]["mean"], factor * figures[key]["std"]
    text = f"{mean:.{decimals}f}"
    return f"{text} ± {std:.{decimals}f}" if len(figures[key]["seeds"]) > 1 else text


def gaps(line: Line) -> list[str]:
    """Both shares of the gap as text, in the order of `GAPS`."""
    return [percent(line.share), percent(line.linear_share)]


def percent(share: float) -> str:
    """A share of the gap as text; a dash where there is no gap."""
    return "–" if share != share else f"{100 * share:.0f} %"


def caption(result: Json) -> str:
    """How a stream was measured, in sentences."""
    s, m = result["settings"], result["machine"]
    learning = [row for row in result["rows"] if row["steps"]]
    fired = [len(row["drifts"]) for row in learning if row["strategy"] != "joint"]
    failures = "; ".join(f"{f['strategy']}, seed {f['seed']}: {f['error']}" for f in result["failures"])
    parts = [
        f"{s['encoder']}; {s['factory']} factory samples, {s['factory_epochs']} epochs;",
        f"at most {s['per_context']} samples of each context in the stream,",
        f"{s['steps']} steps of {s['batch_size']} after every {s['chunk']} samples,",
        f"{max((row['steps'] for row in learning), default=0)} in all; AdamW, learning rate {s['lr']:g};",
        f"bank of {s['bank']} and test of {s['test']} samples per context at most;",
        f"seeds {', '.join(map(str, sorted({row['seed'] for row in result['rows']})))}.",
        f"The drift monitor fired {sum(fired) / max(1, len(fired)):.1f} times a stream.",
        f"Seconds are CPU time on one core of {m['cpu']}, judging included"
        + (f"; measured on {result['date']}." if "date" in result else "."),
        *([f"Failed: {failures}."] if failures else []),
    ]
    return " ".join(parts)
