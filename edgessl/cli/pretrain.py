"""`edgessl pretrain`: a checkpoint from unlabelled data."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, size
from edgessl.cli.group import examples
from edgessl.cli.options import count, data_name, data_options, json_flag, key_values, open_data

if TYPE_CHECKING:
    from edgessl.checkpoint import Checkpoint
    from edgessl.data.source import Source
    from edgessl.pretrain import Progress
    from edgessl.recipe import Recipe

Facts = list[tuple[str, str]]

# What an encoder left to us is, by the kind of input; the recipe's own default takes images.
_ENCODERS = {"image": "ds_cnn_s", "spectrogram": "ds_cnn_s", "signal": "cnn1d"}


@click.command(
    epilog=examples(
        "edgessl pretrain digits --epochs 30",
        "edgessl pretrain shared:fashion_mnist --recipe recipe.toml --device cuda --compile",
        "edgessl pretrain sensors.csv --data window=128 --encoder cnn1d --objective vicreg",
        "edgessl pretrain digits --norm batch --set hyper.temperature=0.2 --set warmup=0.1",
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
@key_values("--set", "settings", "Any other key of the recipe, such as hyper.temperature=0.2.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Checkpoint file.  [default: runs/DATA/checkpoint.safetensors]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@count("--save-every", 200, "Steps between checkpoints.")
@json_flag
def pretrain(
    data: str,
    data_options: dict[str, Any],
    recipe_file: Path | None,
    out: Path | None,
    device: str,
    save_every: int,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Pretrain an encoder on DATA, without labels.

    DATA is a .npy, .npz, .csv, .parquet or idx file, a folder of images or of WAV files, `digits` (built in)
    or `shared:NAME`. What neither options nor recipe say is simclr and adamw for 30 epochs in batches of 128.

    If the checkpoint exists, training resumes from it, with its recipe unless options say otherwise. It is
    written every --save-every steps, so that little is lost when the machine goes away. Watch std (the spread
    of the embeddings; 0 is one point) and rank (how many directions they use): a warning says when they collapse.
    """
    first = os.environ.get("RANK", "0") == "0"
    out = out or Path("runs") / data_name(data) / "checkpoint.safetensors"
    began = time.monotonic()
    with Stages(silent=not first) as stages:
        stages.update("loading")
        source = open_data(data, data_options)
        from edgessl import pretrain as library  # torch, from here on

        recipe, resumed = _recipe(source, recipe_file, out, chosen)
        target = _device(device)
        show_facts(stages.console, _plan(data, source, recipe, out, target, resumed))
        monitor = _Monitor(stages, recipe.batch_size)
        try:
            checkpoint = library.pretrain(
                recipe, source, checkpoint=out, save_every=save_every, device=target, on_progress=monitor
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_interrupted(out)) from None
    _leave_group()
    if not first:
        return
    seconds = time.monotonic() - began
    if as_json:
        print_json(_result(checkpoint, out, seconds, resumed))
    else:
        show_facts(console(), _summary(checkpoint, out, seconds, data))


class _Monitor:
    """Draws pretraining's progress and says once when the embeddings begin to collapse."""

    def __init__(self, stages: Stages, batch_size: int) -> None:
        self.stages, self.batch_size, self.warned = stages, batch_size, ""

    def __call__(self, progress: Progress) -> None:
        m, rate = progress.metrics, progress.samples_per_second
        left = (progress.total - progress.step) * self.batch_size / rate
        note = f"loss {m['loss']:.3f} std {m['embedding_std']:.2f} rank {m['effective_rank']:.1f} {rate:,.0f}/s"
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
    if file is None:
        values["encoder"] = {"name": _ENCODERS[source.kind], "options": {}}
    return parse_recipe(overlay(values, chosen), "options"), saved.step if saved else None


def overlay(values: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with the command line's options in their places."""
    for part in ("encoder", "objective"):
        if chosen[part] and chosen[part] != values[part]["name"]:
            values[part] = {"name": chosen[part], "options": {}}  # another's options mean nothing to it
    for key in ("optimizer", "epochs", "batch_size", "seed", "precision"):
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


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise click.BadParameter(f"{name!r}; expected auto, cpu, cuda or cuda:N", param_hint="'--device'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter(f"{name!r}: torch {torch.__version__} sees no GPU here", param_hint="'--device'")
    return name


def _plan(data: str, source: Source, recipe: Recipe, out: Path, device: str, resumed: int | None) -> Facts:
    steps = recipe.epochs * (len(source) // recipe.batch_size)
    where = f"{out}, resuming after step {resumed:,}" if resumed is not None else str(out)
    return [
        ("data", f"{data}: {len(source):,} x {source.kind} {_shape(source.shape)}, labels not read"),
        ("network", f"{recipe.encoder.name}, {recipe.objective.name}, {recipe.optimizer}"),
        ("steps", f"{steps:,} of {recipe.batch_size} samples ({recipe.epochs} epochs) on {device}"),
        ("checkpoint", where),
    ]


def _result(checkpoint: Checkpoint, out: Path, seconds: float, resumed: int | None) -> dict[str, Any]:
    return {
        "checkpoint": str(out),
        "step": checkpoint.step,
        "resumed_from": resumed,
        "metrics": _last(checkpoint),
        "parameters": int(checkpoint.state["theta"].numel()),
        "seconds": round(seconds, 3),
        "recipe": checkpoint.recipe.model_dump(),
        "provenance": checkpoint.provenance,
    }


def _summary(checkpoint: Checkpoint, out: Path, seconds: float, data: str) -> Facts:
    m = _last(checkpoint)
    figures = f"loss {m['loss']:.3f}, std {m['embedding_std']:.2f}, rank {m['effective_rank']:.1f}"
    return [
        ("done", f"{checkpoint.step:,} steps in {duration(seconds)}: {figures}"),
        ("written", f"{out} ({size(out.stat().st_size)})"),
        ("next", f"edgessl export {out} --calibrate {data}"),
    ]


def _last(checkpoint: Checkpoint) -> dict[str, float]:
    from edgessl.step import METRICS

    return dict(zip(METRICS, map(float, checkpoint.history[-1][1:]), strict=True))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _interrupted(out: Path) -> str:
    from edgessl.checkpoint import Checkpoint

    if not out.exists():
        return f"interrupted before the first checkpoint; {out} was not written"
    return f"interrupted; {out} holds step {Checkpoint.load(out).step:,} and the same command goes on from there"


def _leave_group() -> None:
    """End the process group that torchrun's environment made us join."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
