"""Results of the objectives bench as a table for the terminal and as the page docs/results.md.

python -m edgessl.bench.objectives.page examples/results/objectives-*.json > docs/results.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from edgessl.evaluate.protocol import Result, merge, percent, table
from edgessl.objectives import OBJECTIVES

Json = Mapping[str, Any]

# what some comparisons have beside accuracies: key of the details -> heading
EXTRA = {
    "bits": "bits per character, probe",
    "own_bits": "bits per character, own loss",
    "recall_across": "first side finds second",
}

INTRODUCTION = """# What each objective learns

Every objective of a table had the same data, the same encoder, the same number of samples and the same optimizer
(AdamW, its learning rate along one cosine), with the objective's default hyperparameters: nothing was tuned for any
of them, so the tables say what to expect from a short run on a CPU, not what an objective can reach. Figures are
those of the last epoch, mean and standard deviation over the seeds. Labels were used by the probes and the supervised
encoder only: kNN is the weighted vote of 20 neighbours (cosine, temperature 0.1), linear is logistic regression on
standardised embeddings; both see every training label. *random* is the same encoder with its initial weights;
*supervised* is trained with all labels on the same random views. RankMe is the effective rank of the test embeddings;
a row marked with a dagger had collapsed, or nearly, in one of its runs. The seconds of *seed* include its teacher's.

Read the tables with their budgets in mind: 75 to 460 steps. Contrast, redundancy reduction and rotation learn something
in that time; masked modelling and diffusion, which the papers train for hundreds of epochs, hardly begin, and some
objectives end below random weights. Those rows are published as they are.

`make results` runs it all again (hours); `edgessl bench objectives --set suite=NAME` runs one table.
"""


def merged(result: Json) -> list[Result]:
    """One row per objective, its seeds pooled, in the bench's order."""
    rows = defaultdict(list)
    for row in result["rows"]:
        rows[row["name"]].append(Result.from_json(row))
    return [merge(found) for found in rows.values()]


def details(result: Json, name: str) -> dict[str, list[Any]]:
    """What the runs of one objective said beside their figures: name -> a value per seed."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in result["rows"]:
        if row["name"] == name:
            for key, value in row["details"].items():
                found[key].append(value)
    return found


def objectives_table(result: Json) -> Table:
    """A rich table of what `edgessl.bench.objectives.run.run` returned."""
    shown = Table(title=result["title"], title_justify="left", caption=Text(_caption(result)), caption_justify="left")
    columns, rows = _cells(result)
    for i, column in enumerate(columns):
        shown.add_column(column, justify="right" if i > 1 else "left")
    for row in rows:
        shown.add_row(*row)
    return shown


def section(result: Json) -> str:
    """One comparison in Markdown."""
    columns, rows = _cells(result)
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "---:|" * (len(columns) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"## {result['title']}", "", *lines, "", _caption(result)])


def page(results: Sequence[Json]) -> str:
    """The whole page in Markdown."""
    return "\n\n".join([INTRODUCTION.rstrip(), *map(section, results)]) + "\n"


def _cells(result: Json) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, best kNN first, references on top."""
    results = merged(result)
    compared = table(results)  # refuses rows of different protocols
    extra = [key for key in EXTRA if any(details(result, r.name).get(key) for r in results)]
    columns = ["", "family", *compared.columns, *(EXTRA[key] for key in extra), "RankMe", "seconds"]
    rows = []
    for name, cells in compared.rows:
        known = details(result, name)
        collapsed = any(w is not None for w in known.get("warning", []))
        more = [_mean(known, key) for key in extra]
        family = OBJECTIVES[name].family if name in OBJECTIVES else "reference"
        row = [name + (" †" if collapsed else ""), family, *map(percent, cells), *more]
        order = (family != "reference", -(cells[0][0] if cells[0] else 0))
        rows.append(
            (order, [*row, f"{fmean(known['rankme']):.0f} of {known['dim'][0]}", f"{fmean(known['seconds']):.0f}"])
        )
    return columns, [row for _, row in sorted(rows)]


def _mean(known: Mapping[str, list[Any]], key: str) -> str:
    values = known.get(key, [])
    if not values:
        return "–"
    if isinstance(values[0], dict):
        return ", ".join(f"{k} {100 * fmean(v[k] for v in values):.1f}" for k in values[0])
    return f"{fmean(values):.2f}"


def _caption(result: Json) -> str:
    s, m = result["settings"], result["machine"]
    protocol = result["rows"][0]["protocol"]
    text = (
        f"{protocol['data']}, split: {protocol['split']}; {protocol['train_size']:,} samples to train and to label "
        f"the probes, {protocol['test_size']:,} to test; {s['encoder']}, {s['epochs']} epochs of batches of "
        f"{s['batch_size']}, learning rate {s['lr']:g}; seconds are CPU time on one core of {m['cpu']}."
    )
    failures = "; ".join(f"{f['objective']}, seed {f['seed']}: {f['error']}" for f in result["failures"])
    return f"{text} Failed: {failures}" if failures else text


if __name__ == "__main__":
    sys.stdout.write(page([json.loads(Path(path).read_text()) for path in sys.argv[1:]]))
