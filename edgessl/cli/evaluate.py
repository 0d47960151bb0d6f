"""`edgessl evaluate`: how good an encoder is, measured with labels, beside random weights and a supervised one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import count, data_options, fitting, json_flag, open_data, torch_device

if TYPE_CHECKING:
    from rich.console import Console

WRAP = 6  # columns of figures side by side


@click.command(
    epilog=examples(
        "edgessl evaluate runs/digits/checkpoint.safetensors digits",
        "edgessl evaluate model.edgessl shared:fashion_mnist --suite full --out report.html",
        "edgessl evaluate checkpoint.safetensors train.npz --test test.npz --ood other.npz --suite full",
        "edgessl evaluate checkpoint.safetensors sensors.csv --data window=128 --data label=activity --json",
    )
)
@click.argument("checkpoint", metavar="CHECKPOINT|BUNDLE", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option("--test", metavar="DATA", help="Test data.  [default: the data's own, or a fifth of every class]")
@click.option(
    "--suite",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="quick: kNN, linear, collapse. full: everything that applies.",
)
@count("--knn-k", 20, "Neighbours that vote.")
@count("--seeds", 5, "Seeded draws of few labels.", least=2)
@count("--epochs", 20, "Of the supervised reference and of fine-tuning.")
@count("--limit", 10_000, "Samples of either split at most, evenly spaced.", least=10)
@click.option("--ood", metavar="DATA", help="Samples from elsewhere, of the same shape, to be told apart.")
@click.option("--out", type=click.Path(path_type=Path), help="HTML report; report.json beside it.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:N.")
@json_flag
def evaluate(
    checkpoint: Path,
    data: str,
    data_options: dict[str, Any],
    test: str | None,
    suite: str,
    knn_k: int,
    seeds: int,
    epochs: int,
    limit: int,
    ood: str | None,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how good an encoder is, on labelled DATA.

    Beside the encoder stand the same one with its initial weights and, trained with every label from there, a
    supervised one. Every figure carries the protocol it was made by (data, split, probes, epochs, seed), and
    results of different protocols do not mix in a table.

    DATA needs labels: `digits` and `shared:NAME` have them; else a .npz with members x and y, --data
    labels=FILE.npy, --data label=COLUMN for tables, a folder per class for images and sounds.
    """
    with Stages() as stages:
        stages.update("loading")
        from edgessl.evaluate.data import open_labelled
        from edgessl.evaluate.subject import open_subject
        from edgessl.evaluate.suite import Settings
        from edgessl.evaluate.suite import evaluate as run

        subject = open_subject(checkpoint)
        labelled = fitting(data, data_options, lambda: open_labelled(data, data_options, test))
        outside = None if ood is None else open_data(ood, data_options)
        settings = Settings(suite, knn_k, seeds=seeds, epochs=epochs, limit=limit, device=torch_device(device))
        result = run(subject, labelled, settings, outside=outside, on_progress=stages.update)
        if out is not None:
            stages.update("report")
            from edgessl.report.evaluation import evaluation_report

            evaluation_report(result, out)
    if as_json:
        print_json(result)
        return
    _show(console(), result, out)


def _show(show: Console, result: Mapping[str, Any], out: Path | None) -> None:
    protocol, rows = result["protocol"], result["results"]
    probes = [p for p in protocol["probes"] if any(p in row["figures"] for row in rows)]
    for i in range(0, len(probes), WRAP):
        columns = probes[i : i + WRAP]
        cells = ([row["name"], *(_percent(row["figures"].get(p)) for p in columns)] for row in rows)
        show_grid(show, ("percent", *columns), cells)
    figures = ("rankme", "std_mean", "dead_dimensions", "uniformity", "alignment")
    found = ((row["name"], row["details"]["collapse"]) for row in rows)
    show_grid(
        show,
        ("collapse", "RankMe", "mean std", "dead dims", "uniformity", "alignment"),
        ([name, *("–" if c[key] is None else f"{c[key]:.3g}" for key in figures)] for name, c in found),
    )
    show_facts(show, [*_facts(result), *([("report", str(out))] if out is not None else [])])


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    p = result["protocol"]
    epochs = "epochs unknown" if p["epochs"] is None else f"{p['epochs']:g} epochs"
    lines = [
        ("data", f"{p['data']}: {p['train_size']:,} train, {p['test_size']:,} test ({p['split']})"),
        ("pretrained", f"{result['subject']['objective']}, {epochs}, seed {p['seeds'][0]}, {p['weights']}"),
    ]
    if (energy := result["energy"]) is not None:
        lines.append(("energy", f"{energy['joules'] / 3600:.3g} Wh, {energy['co2_g']:.3g} g CO2e ({energy['grade']})"))
    if (found := result.get("contamination")) is not None:
        near = found["embedding"]
        lines.append(
            (
                "duplicates",
                f"{found['exact']['count']} exact, {near['count']} near (cosine {near['threshold']:.4f}; "
                f"false alarms {near['false_alarms']:.1%}) in test",
            )
        )
    for attribute, groups in result["results"][0]["details"].get("subgroups", {}).items():
        if groups["gap"] is not None:
            worst = next(row for row in groups["rows"] if row["group"] == groups["worst"])
            text = f"worst {worst['group']}: {worst['accuracy']:.1%} ({worst['low']:.1%} to {worst['high']:.1%})"
            lines.append((f"by {attribute}", f"{text}, {100 * groups['gap']:.1f} points below the best"))
    lines += [("skipped", f"{name}: {why}") for name, why in result["skipped"].items()]
    return [*lines, ("protocol", p["digest"]), ("done", f"in {duration(result['seconds'])}")]


def _percent(values: list[float] | None) -> str:
    return "–" if values is None else f"{100 * values[0]:.1f}"
