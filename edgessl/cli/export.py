"""`edgessl export`: a checkpoint becomes a verified bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, duration, print_json, show_facts, show_grid, show_members, size
from edgessl.cli.group import examples
from edgessl.cli.options import CommaList, count, data_options, json_flag, key_values, numbers, open_data

if TYPE_CHECKING:
    from rich.console import Console

    from edgessl.device import Bundle
    from edgessl.step import TrainStep
    from export.tuning import Tuning

CALIBRATION_SAMPLES = 512  # at most, evenly spaced over the data


@click.command(
    epilog=examples(
        "edgessl export runs/digits/checkpoint.safetensors --calibrate digits",
        "edgessl export checkpoint.safetensors -o sensor.edgessl --calibrate new.csv --data window=128",
        "edgessl export checkpoint.safetensors --no-int8 --batch-size 16 --set lr=0.0003",
        "edgessl export checkpoint.safetensors --calibrate digits --cut block4",
        "edgessl export checkpoint.safetensors --calibrate digits --targets ort-cpu,tensorrt --requantize",
        "edgessl export checkpoint.safetensors --calibrate digits --strategy lwf --set lwf_weight=0.5",
        "edgessl export checkpoint.safetensors --calibrate digits --tune 60 --tune-threads 2",
    )
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Bundle to write.  [default: beside the checkpoint]")
@click.option("--calibrate", metavar="DATA", help="Unlabelled samples typical of the device, for the int8 encoder.")
@data_options
@click.option(
    "--quantize",
    "method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    default="minmax",
    show_default=True,
    help="How ranges of activations are found.",
)
@click.option(
    "--targets", type=CommaList(), metavar="A,B", help="Some of ort-cpu, tensorrt and int4.  [default: ort-cpu]"
)
@click.option("--bits", type=click.IntRange(2, 8), default=7, show_default=True, help="Of int8 weights, on a CPU.")
@click.option("--requantize", is_flag=True, help="Let the device make its int8 encoder anew from what it learned.")
@click.option("--no-int8", is_flag=True, help="Leave the int8 encoder out.")
@click.option("--portable", is_flag=True, help="A training step for GPUs and TensorRT; up to twice as slow on a CPU.")
@click.option(
    "--tune",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Time the forms of every convolution of the step on this machine, and take the fastest.",
)
@click.option(
    "--tune-threads", type=click.IntRange(1), default=1, show_default=True, help="Compute threads for --tune."
)
@click.option("--cut", metavar="STAGE", help="Freeze the encoder up to STAGE; the device learns what lies behind it.")
@click.option("--strategy", metavar="NAME", help="What the step does against forgetting, such as lwf, cassle or ewc.")
@key_values("--strategy-option", "strategy_options", "An option of the strategy, such as form=contrastive.")
@count("--batch-size", 32, "Samples per step on the device.", least=2)
@key_values("--set", "hyper", "A hyperparameter a device starts from, such as lr=0.001.", numbers)
@json_flag
def export(
    checkpoint: Path,
    out: Path | None,
    calibrate: str | None,
    data_options: dict[str, Any],
    method: str,
    targets: list[str] | None,
    bits: int,
    requantize: bool,
    no_int8: bool,
    portable: bool,
    tune: float | None,
    tune_threads: int,
    cut: str | None,
    strategy: str | None,
    strategy_options: dict[str, Any],
    batch_size: int,
    hyper: dict[str, float],
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle that runs and learns on a device.

    A bundle needs numpy and onnxruntime, no torch: the encoder and the whole training step (augmentations,
    backward pass, optimizer) are traced into standard ONNX. Then comes the parity gate: the graphs, run by
    onnxruntime, must agree with torch, or nothing is written. Its figures are printed and kept in the bundle.

    With --cut the bundle takes the cheap path, latent replay: the encoder up to STAGE is frozen in int8, the
    device remembers what comes out of it, a byte a value, and trains the rest. Cutting at the last stage, "pool",
    remembers embeddings and trains a small adapter behind them.

    With --strategy the step does something against forgetting beside replaying what the device remembers; its
    weights are hyperparameters (--set). `docs/strategies.md` lists them with their prices.

    With --tune each convolution of the step takes the form that is fastest on this machine, in place of what
    rules made on another one say; the bundle keeps the figures. It pays where the device is like this machine.
    """
    if (calibrate is None) != no_int8:
        raise click.UsageError(
            "--calibrate and --no-int8 exclude each other."
            if no_int8
            else "the int8 encoder needs --calibrate DATA (unlabelled samples, a few hundred will do); "
            "--no-int8 leaves it out."
        )
    if cut is not None and no_int8:
        raise click.UsageError("--cut needs an int8 backbone: give --calibrate DATA instead of --no-int8.")
    if no_int8 and (targets or requantize):
        raise click.UsageError("--no-int8 leaves every quantized encoder out; it excludes --targets and --requantize.")
    if portable and tune is not None:
        raise click.UsageError("--tune times this machine's CPU; a --portable step is for GPUs, give one of them.")
    if strategy_options and strategy is None:
        raise click.UsageError("--strategy-option needs --strategy NAME.")
    out = out or _beside(checkpoint)
    began = time.monotonic()
    with Stages() as stages:
        stages.update("loading")
        from edgessl.checkpoint import Checkpoint  # torch, from here on

        loaded = Checkpoint.load(checkpoint)
        samples = None if calibrate is None else _samples(calibrate, data_options)
        from edgessl.continual.device_step import device_step
        from edgessl.recipe import Part
        from export import export_bundle, trace_graphs
        from export.quantize import Quantization, Settings

        part = None if strategy is None else Part(name=strategy, options=strategy_options)
        forms = tuple(targets) if targets else ("ort-cpu",)
        quantization = Quantization(Settings(method=method, weight_bits=bits), forms, requantize)
        step = device_step(loaded, strategy=part, cut=cut)[0]
        tuning = None if tune is None else _tuned(stages, step, batch_size, tune, tune_threads)
        stages.update("tracing encoder and training step")
        graphs = trace_graphs(step, batch_size, portable=portable, tuning=tuning)
        stages.update("parity gate against torch" if no_int8 else "int8, parity gate against torch")
        out.parent.mkdir(parents=True, exist_ok=True)
        bundle = export_bundle(
            loaded,
            out,
            calibration=samples,
            hyper=hyper,
            graphs=graphs,
            cut=cut,
            strategy=part,
            quantization=quantization,
        )
    if as_json:
        print_json(_result(bundle, out, time.monotonic() - began))
        return
    show = console()
    _show_parity(show, bundle.manifest.parity)
    show_members(show, bundle.manifest.members)
    show_facts(
        show,
        [
            ("written", f"{out} ({size(out.stat().st_size)}) in {duration(time.monotonic() - began)}"),
            ("next", f"edgessl stream {out} {calibrate or 'DATA'} --state runs/device"),
        ],
    )


def _tuned(stages: Stages, step: TrainStep, batch_size: int, seconds: float, threads: int) -> Tuning:
    from export.tuning import tune

    def progress(done: int, total: int, site: str) -> None:
        stages.update("timing forms of convolutions", done / total if total else 1.0, site)

    tuning = tune(step, batch_size, threads=threads, seconds=seconds, progress=progress)
    if left := tuning.open_sites - len(tuning.ms):
        stages.warn(f"--tune {seconds:g}: the time was up with {left} of {tuning.open_sites} left to the rules")
    return tuning


def _show_parity(show: Console, parity: Mapping[str, Any]) -> None:
    """What the gate measured, in words and figures."""
    rows = []
    if train := parity.get("train"):
        slot = max(train["slots"], key=train["slots"].get)
        rows.append((f"training step, {train['steps']} steps on", f"{train['slots'][slot]:.1e}", f"worst slot: {slot}"))
    if "encoder" in parity:
        rows.append(("encoder", f"{parity['encoder']:.1e}", "relative error of the embeddings"))
    for key, what in (("int8", "int8 encoder"), ("trt", "TensorRT's int8 encoder"), ("int4", "int4 encoder")):
        if found := parity.get(f"encoder_{key}"):
            rows.append((what, f"{found['cosine_mean']:.4f}", f"cosine to float (least {found['cosine_min']:.4f})"))
            rows.append(("", f"{found['neighbor_overlap']:.2f}", "share of nearest neighbours kept"))
    for name, what in (("backbone", "int8 backbone"), ("embedding", "int8 backbone and tail")):
        if figures := parity.get(name):
            rows.append((what, f"{figures['cosine_mean']:.4f}", "cosine to float"))
            rows.append(("", f"{figures['neighbor_overlap']:.2f}", "share of nearest neighbours kept"))
    if found := parity.get("tensorrt"):
        legal = ", ".join(name for name, violations in found.items() if not violations)
        rows.append(("legal in TensorRT", str(sum(not v for v in found.values())), legal or "none of the graphs"))
    for name in ("importance", "consolidate"):
        if name in parity:
            rows.append((f"{name} graph", f"{parity[name]:.1e}", "relative error"))
    show_grid(show, ("onnxruntime against torch", "figure", "which is"), rows, left=["which is"])


def _result(bundle: Bundle, out: Path, seconds: float) -> dict[str, Any]:
    return {
        "bundle": str(out),
        "digest": bundle.digest,
        "parity": dict(bundle.manifest.parity),
        "members": {name: member.bytes for name, member in bundle.manifest.members.items()},
        "bytes": out.stat().st_size,
        "seconds": round(seconds, 3),
    }


def _beside(checkpoint: Path) -> Path:
    """`runs/digits/checkpoint.safetensors` gives `runs/digits/digits.edgessl`; other names keep their stem."""
    folder = checkpoint.resolve().parent.name
    return checkpoint.with_name(f"{folder if checkpoint.stem == 'checkpoint' and folder else checkpoint.stem}.edgessl")


def _samples(spec: str, options: dict[str, Any]) -> Any:
    import numpy as np

    source = open_data(spec, options)
    n = len(source)
    return source.take(np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_SAMPLES)).round().astype(np.int64)))
