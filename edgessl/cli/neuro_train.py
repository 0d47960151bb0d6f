"""`edgessl neuro train`: a spiking coder from unlabelled data."""

from __future__ import annotations

import signal
import time
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, size
from edgessl.cli.group import examples
from edgessl.cli.options import CommaList, count, data_name, data_options, json_flag, key_values
from edgessl.cli.signals import stop_signals

if TYPE_CHECKING:
    from neuromorphic.checkpoint import SpikingCheckpoint
    from neuromorphic.spike_data import SpikeSource
    from neuromorphic.training import Progress, SpikingRecipe


@click.command(
    epilog=examples(
        "edgessl neuro train shared:fashion_mnist --epochs 3 --samples 10000",
        "edgessl neuro train shared:nmnist_small --hidden 256,128 --objective temporal_contrast",
        "edgessl neuro train shared:fsdd --data n_mels=20 --spikes threshold=0.8 --spikes repeat=2",
        "edgessl neuro train digits --from runs/digits-spiking/checkpoint.safetensors --bits 4 --out qat.safetensors",
        "edgessl neuro train digits --cell leaky --out twin.safetensors",
    )
)
@click.argument("data")
@data_options
@click.option("--encoder", help="How data become spikes, such as regular, bernoulli, latency, level_crossing, events.")
@key_values("--spikes", "spikes", "Option of the spike encoder, such as steps=12.")
@click.option("--hidden", type=CommaList(int), metavar="A,B", help="Neurons per layer.  [default: 256,128]")
@click.option("--cell", help="lif, leaky (the dense twin) or liquid (continuous time).  [default: lif]")
@click.option("--objective", help="spiking_predictive or temporal_contrast.  [default: spiking_predictive]")
@click.option("--bits", type=int, help="Train in integers with weights of 2 to 8 bits.  [default: in floats]")
@click.option("--from", "source_file", type=click.Path(path_type=Path), help="Checkpoint whose weights to begin with.")
@click.option("--epochs", type=int, help="Passes over the data.  [default: 5]")
@click.option("--batch-size", type=int, help="Samples per step.  [default: 64]")
@click.option("--lr", type=float, help="Learning rate at the first step.  [default: 0.001]")
@click.option("--seed", type=int, help="Of weights, batch order and random codes.  [default: 0]")
@click.option("--samples", type=click.IntRange(2), metavar="N", help="Train on the first N samples only.")
@key_values("--set", "settings", "Any other key of the recipe, such as hyper.rate=0.5 or objective.horizon=2.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Checkpoint file.  [default: runs/DATA-spiking/checkpoint.safetensors]",
)
@count("--save-every", 200, "Steps between checkpoints.")
@json_flag
def train(
    data: str,
    data_options: dict[str, Any],
    samples: int | None,
    source_file: Path | None,
    out: Path | None,
    save_every: int,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train a spiking coder on DATA, without labels.

    DATA is what `edgessl pretrain` takes; shared:nmnist_small is read as events, shared:qtdb_ecg_spikes as the spikes
    it holds. Every layer of leaky integrate-and-fire neurons learns to predict the layer below from its own loss alone.

    If the checkpoint exists, training resumes from it. It is written every --save-every steps and at Ctrl-C or SIGTERM
    (exit codes 130 and 143). Watch std and rank (embeddings collapse towards 0 and 1) and rate, the mean activity.
    """
    out = out or Path("runs") / f"{data_name(data)}-spiking" / "checkpoint.safetensors"
    began = time.monotonic()
    with Stages() as stages, stop_signals() as signals:
        stages.update("loading")
        import numpy as np

        from neuromorphic import training as library  # torch, from here on
        from neuromorphic.spike_data import SpikeSubset, open_spikes

        recipe, resumed = _recipe(out, chosen)
        source = open_spikes(data, recipe.encoder.name, recipe.encoder.options, recipe.seed, **data_options)
        if samples is not None:
            source = SpikeSubset(source, np.arange(min(samples, len(source))))
        start = None if source_file is None else _start(source_file, recipe, source)
        show_facts(stages.console, _plan(data, source, recipe, out, resumed))
        found = library.train(
            recipe,
            source,
            start=start,
            checkpoint=out,
            save_every=save_every,
            should_stop=lambda: bool(signals),
            on_progress=_Monitor(stages),
        )
        if signals:
            name = signal.Signals(signals[0]).name
            stages.say(f"stopped by {name}; {out} holds step {found.step:,} and the same command goes on from there")
    if as_json:
        print_json(_result(found, out, time.monotonic() - began, resumed))
    else:
        show_facts(
            console(),
            [
                ("done", f"{found.step:,} steps in {duration(time.monotonic() - began)}: {figures(found.rows()[-1])}"),
                ("written", f"{out} ({size(out.stat().st_size)})"),
                ("next", f"edgessl neuro convert {out} {data}"),
            ],
        )
    if signals:
        raise SystemExit(128 + signals[0])


class _Monitor:
    """Draws the progress and says once when the embeddings begin to collapse."""

    def __init__(self, stages: Stages) -> None:
        self.stages, self.warned = stages, ""

    def __call__(self, progress: Progress) -> None:
        note = f"{figures(progress.metrics)} {progress.samples_per_second:,.0f}/s"
        self.stages.update("training", progress.step / progress.total, note)
        kind = (progress.warning or "").split("(")[0]
        if kind and kind != self.warned:
            self.stages.warn(f"step {progress.step}: {progress.warning}")
        self.warned = kind


def figures(row: dict[str, float]) -> str:
    """Loss and diagnostics in a line; what is not known is left out."""
    shown = (("loss", "loss", ".3f"), ("std", "embedding_std", ".2f"), ("rank", "effective_rank", ".1f"),
             ("rate", "rate", ".3f"))  # fmt: skip
    return " ".join(f"{name} {row[key]:{form}}" for name, key, form in shown if not isnan(row[key]))


def _recipe(out: Path, chosen: dict[str, Any]) -> tuple[SpikingRecipe, int | None]:
    """The recipe that the options or an existing checkpoint ask for, and the step to resume from."""
    from neuromorphic.checkpoint import SpikingCheckpoint
    from neuromorphic.training import SpikingRecipe, parse_spiking_recipe

    saved = SpikingCheckpoint.load(out) if out.exists() else None
    if saved is not None and not any(value not in (None, {}) for value in chosen.values()):
        return parse_spiking_recipe(saved.recipe, str(out)), saved.step
    values = SpikingRecipe().model_dump(mode="json")
    for part in ("encoder", "objective"):
        if chosen[part]:
            values[part]["name"] = chosen[part]
    values["encoder"]["options"] = dict(chosen["spikes"])
    for key in ("hidden", "cell", "bits", "epochs", "batch_size", "lr", "seed"):
        if chosen[key] is not None:
            values[key] = chosen[key]
    for path, value in chosen["settings"].items():
        head, _, key = path.partition(".")
        if not key:
            values[head] = value
        elif head == "hyper":
            values["hyper"][key] = value
        elif head in ("encoder", "objective"):
            values[head]["options"][key] = value
        else:
            raise click.BadParameter(f"{path!r}: {head!r} has no keys of its own", param_hint="'--set'")
    return parse_spiking_recipe(values, "options"), saved.step if saved else None


def _start(path: Path, recipe: SpikingRecipe, source: SpikeSource) -> Any:
    from edgessl.errors import ConfigError
    from neuromorphic.checkpoint import SpikingCheckpoint

    coder = SpikingCheckpoint.load(path).coder()
    if (coder.n_in, coder.sizes, coder.cell) != (source.shape[1], recipe.hidden, recipe.cell):
        raise ConfigError(
            f"{path} has {coder.cell} layers {(coder.n_in, *coder.sizes)}; this run has {recipe.cell}"
            f" {(source.shape[1], *recipe.hidden)}: give the same --hidden, --cell and spikes"
        )
    if coder.bits is not None:
        coder.quantize(None)
    return coder


def _plan(
    data: str, source: SpikeSource, recipe: SpikingRecipe, out: Path, resumed: int | None
) -> list[tuple[str, str]]:
    steps, channels = source.shape
    total = recipe.epochs * (len(source) // recipe.batch_size)
    arithmetic = "floats" if recipe.bits is None else f"integers, {recipe.bits}-bit weights"
    sizes = "-".join(map(str, (channels, *recipe.hidden)))
    where = f"{out}, resuming after step {resumed:,}" if resumed is not None else str(out)
    return [
        ("data", f"{data}: {len(source):,} x {steps} steps of {channels} channels, labels not read"),
        ("network", f"{sizes} {recipe.cell}, {recipe.objective.name}, {arithmetic}"),
        ("steps", f"{total:,} of {recipe.batch_size} samples ({recipe.epochs} epochs)"),
        ("checkpoint", where),
    ]


def _result(found: SpikingCheckpoint, out: Path, seconds: float, resumed: int | None) -> dict[str, Any]:
    return {
        "checkpoint": str(out),
        "step": found.step,
        "resumed_from": resumed,
        "metrics": {name: value for name, value in found.rows()[-1].items() if name != "step"},
        "seconds": round(seconds, 3),
        "recipe": found.recipe,
        "provenance": found.provenance,
    }
