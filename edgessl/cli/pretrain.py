"""`edgessl pretrain`: a checkpoint from unlabelled data."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, size
from edgessl.cli.group import examples
from edgessl.cli.options import count, data_name, data_options, json_flag, key_values, open_data, torch_device
from edgessl.cli.signals import stop_signals

if TYPE_CHECKING:
    import numpy as np

    from edgessl.checkpoint import Checkpoint
    from edgessl.data.source import Source
    from edgessl.pretrain import Progress
    from edgessl.recipe import Recipe

Facts = list[tuple[str, str]]

COLLAPSED = 3  # exit code of --stop-on-collapse


@click.command(
    epilog=examples(
        "edgessl pretrain digits --epochs 30",
        "edgessl pretrain shared:fashion_mnist --recipe recipe.toml --device cuda --compile",
        "edgessl pretrain sensors.csv --data window=128 --encoder cnn1d --objective vicreg",
        "edgessl pretrain digits --norm batch --set hyper.temperature=0.2 --set warmup=0.1",
        "edgessl pretrain digits --batch-size 512 --chunk 32 --stop-on-collapse --probe",
        "torchrun --nproc-per-node 2 -m edgessl pretrain digits --out runs/two/checkpoint.safetensors",
    )
)
@click.argument("data")
@data_options
@click.option(
    "--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file; the options below override it."
)
@click.option("--encoder", help="Such as ds_cnn_s, resnet8, vit, cnn1d.  [default: one for the kind of data]")
@click.option("--objective", help="Such as simclr, vicreg, byol, moco.")
@click.option("--optimizer", help="adamw, sgd or lars.")
@click.option("--norm", help="The encoder's norm, such as group or batch.")
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--batch-size", type=int, help="Samples per step, over all processes.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--seed", type=int, help="Of weights, batch order and views.")
@click.option("--precision", help="float32 or bfloat16 (for a GPU).")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the loss (for a GPU).")
@click.option("--chunk", type=int, help="Rows per encoder pass: large batches in little memory.")
@key_values("--set", "settings", "Any other key of the recipe, such as hyper.temperature=0.2.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Checkpoint file.  [default: runs/DATA/checkpoint.safetensors]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@count("--save-every", 200, "Steps between checkpoints.")
@click.option("--probe", is_flag=True, help="Show how well labels, if there are any, can be read off the embeddings.")
@click.option("--stop-on-collapse", is_flag=True, help="Stop at the first warning; exit code 3.")
@click.option(
    "--grid", type=click.FloatRange(0), metavar="G", help="Grams of CO2 per kWh here.  [default: 481, the world]"
)
@json_flag
def pretrain(
    data: str,
    data_options: dict[str, Any],
    recipe_file: Path | None,
    out: Path | None,
    device: str,
    save_every: int,
    probe: bool,
    stop_on_collapse: bool,
    grid: float | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Pretrain an encoder on DATA, without labels.

    DATA is a .npy, .npz, .csv, .parquet or idx file, a folder of images or of WAV files, `digits` (built in)
    or `shared:NAME`. What neither options nor recipe say is simclr and adamw for 30 epochs in batches of 128.

    If the checkpoint exists, training resumes from it, with its recipe unless options say otherwise. It is
    written every --save-every steps and at Ctrl-C or SIGTERM (exit codes 130 and 143). Watch std (the spread
    of the embeddings; 0 is one point) and rank (how many directions they use): a warning says when they
    collapse. align is the distance of a sample's two views (less is better), unif how evenly the embeddings
    spread (0 is one point, -4 even). --probe tests a linear classifier on each batch before it learns from it;
    the encoder never sees a label.
    """
    first = os.environ.get("RANK", "0") == "0"
    out = out or Path("runs") / data_name(data) / "checkpoint.safetensors"
    began = time.monotonic()
    with Stages(silent=not first) as stages, stop_signals() as signals:
        stages.update("loading")
        source = open_data(data, data_options)
        from edgessl import pretrain as library  # torch, from here on
        from edgessl.energy import GRID_G_PER_KWH

        recipe, resumed = _recipe(source, recipe_file, out, chosen)
        target = torch_device(device)
        show_facts(stages.console, _plan(data, source, recipe, out, target, resumed, probe))
        monitor = _Monitor(stages, recipe.batch_size)
        checkpoint = library.pretrain(
            recipe,
            source,
            checkpoint=out,
            save_every=save_every,
            device=target,
            labels=_labels(data, source) if probe else None,
            grid_g_per_kwh=GRID_G_PER_KWH if grid is None else grid,
            should_stop=lambda: bool(signals) or (stop_on_collapse and monitor.warned != ""),
            on_progress=monitor,
            on_warning=stages.warn,
        )
        stopped = (
            signal.Signals(signals[0]).name if signals else "collapse" if stop_on_collapse and monitor.warned else ""
        )
        if stopped:
            stages.say(
                f"stopped by {stopped}; {out} holds step {checkpoint.step:,} and the same command goes on from there"
            )
    _leave_group()
    if first:
        seconds = time.monotonic() - began
        if as_json:
            print_json(_result(checkpoint, out, seconds, resumed, stopped))
        else:
            show_facts(console(), _summary(checkpoint, out, seconds, data))
    if stopped:
        raise SystemExit(128 + signals[0] if signals else COLLAPSED)


class _Monitor:
    """Draws pretraining's progress and says once when the embeddings begin to collapse."""

    def __init__(self, stages: Stages, batch_size: int) -> None:
        self.stages, self.batch_size, self.warned = stages, batch_size, ""

    def __call__(self, progress: Progress) -> None:
        m, rate = progress.metrics, progress.samples_per_second
        left = (progress.total - progress.step) * self.batch_size / rate
        note = f"{_figures(m)} {rate:,.0f}/s"
        note += f" {duration(left)} left" if left else ""
        self.stages.update("training", progress.step / progress.total, note)
        kind = (progress.warning or "").split("(")[0]  # the figures in brackets change at every step
        if kind and kind != self.warned:
            self.stages.warn(f"step {progress.step}: {progress.warning}")
        self.warned = kind


def _recipe(source: Source, file: Path | None, out: Path, chosen: dict[str, Any]) -> tuple[Recipe, int | None]:
    """The recipe that file, options and an existing checkpoint ask for, and the step to resume from."""
    from edgessl.checkpoint import Checkpoint
    from edgessl.recipe import load_recipe, parse_recipe

    saved = Checkpoint.load(out) if out.exists() else None
    asked = file is not None or any(value not in (None, False, {}) for value in chosen.values())
    if saved is not None and not asked:
        return saved.recipe, saved.step
    values = (load_recipe(file) if file else parse_recipe({})).model_dump()
    recipe = parse_recipe(overlay(values, chosen), "options").for_kind(source.kind)
    return recipe, saved.step if saved else None


def _labels(data: str, source: Source) -> np.ndarray[Any, np.dtype[np.int64]]:
    if source.labels is None:
        raise click.BadParameter(f"{data} has no labels to probe with", param_hint="'--probe'")
    return source.labels


def overlay(values: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with the command line's options in their places."""
    for part in ("encoder", "objective"):
        if chosen[part] and chosen[part] != values[part]["name"]:
            values[part] = {"name": chosen[part], "options": {}}  # another's options mean nothing to it
    for key in ("optimizer", "epochs", "batch_size", "seed", "precision", "chunk"):
        if chosen[key] is not None:
            values[key] = chosen[key]
    if chosen["norm"]:
        values["encoder"]["options"]["norm"] = chosen["norm"]
    if chosen["lr"] is not None:
        values["hyper"]["lr"] = chosen["lr"]
    values["compile"] = values["compile"] or chosen["compiled"]
    for path, value in chosen["settings"].items():
        *parents, key = path.split(".")
        place = values
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(f"{path!r}: {parent!r} has no keys of its own", param_hint="'--set'")
            place = inner
        place[key] = value
    return values


def _plan(data: str, source: Source, recipe: Recipe, out: Path, device: str, resumed: int | None, probe: bool) -> Facts:
    steps = recipe.epochs * (len(source) // recipe.batch_size)
    where = f"{out}, resuming after step {resumed:,}" if resumed is not None else str(out)
    labels = "labels for the probe only" if probe else "labels not read"
    return [
        ("data", f"{data}: {len(source):,} x {source.kind} {_shape(source.shape)}, {labels}"),
        ("network", f"{recipe.encoder.name}, {recipe.objective.name}, {recipe.optimizer}"),
        ("steps", f"{steps:,} of {recipe.batch_size} samples ({recipe.epochs} epochs) on {device}"),
        ("checkpoint", where),
    ]


def _result(checkpoint: Checkpoint, out: Path, seconds: float, resumed: int | None, stopped: str) -> dict[str, Any]:
    return {
        "checkpoint": str(out),
        "step": checkpoint.step,
        "resumed_from": resumed,
        "stopped": stopped or None,
        "metrics": _last(checkpoint),
        "parameters": int(checkpoint.state["theta"].numel()),
        "seconds": round(seconds, 3),
        "recipe": checkpoint.recipe.model_dump(),
        "provenance": checkpoint.provenance,
    }


def _summary(checkpoint: Checkpoint, out: Path, seconds: float, data: str) -> Facts:
    return [
        ("done", f"{checkpoint.step:,} steps in {duration(seconds)}: {_figures(_last(checkpoint))}"),
        *_cost(checkpoint.provenance),
        ("written", f"{out} ({size(out.stat().st_size)})"),
        ("next", f"edgessl export {out} --calibrate {data}"),
    ]


def _cost(found: dict[str, Any]) -> Facts:
    """Memory, waiting and energy of a run that took a step."""
    if "energy" not in found:
        return []
    memory = f"{size(round(found['peak_rss_mb'] * 1e6))} of memory at most"
    if "peak_gpu_mb" in found:
        memory += f", {size(round(found['peak_gpu_mb'] * 1e6))} on the GPU"
    energy = found["energy"]
    hows = "; ".join(f"{part}: {figures['how']}" for part, figures in energy["parts"].items())
    return [
        ("cost", f"{memory}; {found['input_wait_share']:.1%} of the time waiting for data"),
        (
            "energy",
            f"{energy['joules'] / 3600:.3g} Wh, {energy['co2_g']:.2g} g CO2 at {energy['grid_g_per_kwh']:g} g/kWh "
            f"({energy['grid_source']}); {energy['grade']} ({hows})",
        ),
    ]


def _figures(m: Mapping[str, float]) -> str:
    """Loss and diagnostics in a line; what an objective does not have is left out."""
    shown = (
        ("loss", "loss", ".3f"),
        ("std", "embedding_std", ".2f"),
        ("rank", "effective_rank", ".1f"),
        ("align", "alignment", ".2f"),
        ("unif", "uniformity", ".2f"),
        ("probe", "probe_accuracy", ".1%"),
    )
    known = [(name, m[key], form) for name, key, form in shown if key in m and (key == "loss" or not isnan(m[key]))]
    return " ".join(f"{name} {value:{form}}" for name, value, form in known)


def _last(checkpoint: Checkpoint) -> dict[str, float]:
    return {name: value for name, value in checkpoint.rows()[-1].items() if name != "step"}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _leave_group() -> None:
    """End the process group that torchrun's environment made us join."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
