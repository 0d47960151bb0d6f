"""Pretraining: a flat loop around the pure step; resumable, and bit-exact when resumed on a CPU.

Batch order and noise are functions of (seed, step), so a checkpoint needs no random-number state.
"""

from __future__ import annotations

import math
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgessl
from edgessl.checkpoint import Checkpoint
from edgessl.cost import RunCost
from edgessl.data.source import Source, channel_statistics, content_hash
from edgessl.data.tokens import vocabulary_of
from edgessl.device.bundle.specs import InputSpec
from edgessl.diagnostics import WATCHED, collapse_warning, watch
from edgessl.distributed import Processes
from edgessl.energy import GRID_G_PER_KWH
from edgessl.errors import ConfigError
from edgessl.probing import BatchProbe
from edgessl.reader import Reader
from edgessl.recipe import Recipe, advice, build_step
from edgessl.step import METRICS, hyper_tensors

LOG_EVERY = 10  # steps between rows of the history
COLUMNS = ("step", *METRICS, *WATCHED)  # and "probe_accuracy" where labels are given
Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Progress:
    """One row of the live display; `metrics` holds the history's columns, the step aside."""

    step: int
    total: int
    metrics: dict[str, float]
    lr: float
    samples_per_second: float
    warning: str | None


def input_spec(source: Source) -> InputSpec:
    """What one sample of `source` is, with the channel statistics that the encoder normalises by."""
    mean, std = channel_statistics(source)
    figures = tuple(map(float, mean)), tuple(map(float, std))
    return InputSpec(source.kind, tuple(source.shape), *figures, source.units, vocabulary_of(source))


def pretrain(
    recipe: Recipe,
    source: Source,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    device: str = "cpu",
    labels: Labels | None = None,
    grid_g_per_kwh: float = GRID_G_PER_KWH,
    stop_after: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = warnings.warn,
) -> Checkpoint:
    """Train `recipe` on the unlabelled samples of `source`; `source.labels` is never read.

    Args:
        recipe: what to train and how.
        source: the data; at least one batch.
        checkpoint: file to write every `save_every` steps and at the end; if it exists, training resumes from it.
        save_every: steps between checkpoints.
        device: "cpu", "cuda" or "cuda:N". Under `torchrun`, "cuda" is this process's GPU.
        labels: classes of the samples `(len(source),)` int64, -1 where unknown, for an online linear probe that reads
            detached embeddings; what is trained stays the same, bit for bit. The history then has `probe_accuracy`.
        grid_g_per_kwh: grams of CO2 equivalent per kWh of the local grid, for the estimate in the provenance.
        stop_after: stop (with a checkpoint) after this many steps in all, as a pre-empted run would.
        should_stop: asked after every step (under `torchrun` every `LOG_EVERY`); True from any process stops all, with
            a checkpoint.
        on_progress: called every `LOG_EVERY` steps on the first process.
        on_warning: told in a sentence what is allowed but unwise about the recipe.

    Returns:
        The final checkpoint (the same on every process but for its provenance). The provenance says what the run cost:
        `seconds`, `input_wait_share` (waiting for data, of waiting and computing), `peak_rss_mb`, on a GPU
        `peak_gpu_mb`, and `energy` (see `edgessl.energy`; the first process's).

    Raises:
        ConfigError: the checkpoint belongs to another recipe, there is less than one batch of data, or the recipe does
            not fit the data.
    """
    target = torch.device(device)
    processes = Processes.from_environment(target)
    if target.type == "cuda":
        target = torch.device("cuda", target.index if target.index is not None else processes.rank)
        torch.cuda.set_device(target)
    recipe = recipe.for_kind(source.kind)
    start = _resume_or_start(recipe, source, Path(checkpoint) if checkpoint is not None else None)
    step = build_step(recipe, start.input)
    for text in advice(recipe, processes.count):
        on_warning(text)
    if recipe.compile:
        step.compile()
    per_epoch = len(source) // recipe.batch_size
    if per_epoch == 0:
        raise ConfigError(f"batch_size {recipe.batch_size} is more than the {len(source)} samples there are")
    total = recipe.epochs * per_epoch
    last = total if stop_after is None else min(total, stop_after)
    state = {name: value.to(target) for name, value in start.state.items()}
    # where a run was cut off there is a row that the uninterrupted run has not
    history = [row for row in start.rows() if row["step"] % LOG_EVERY == 0 or row["step"] == total]
    columns = COLUMNS if labels is None and "probe_accuracy" not in start.columns else (*COLUMNS, "probe_accuracy")
    probe = None if labels is None else BatchProbe(labels, len(source), start.probe)
    autocast = torch.bfloat16 if recipe.precision == "bfloat16" else None
    mine = processes.share(recipe.batch_size)
    reader = Reader(source, recipe.seed, step.noise_shape(recipe.batch_size), mine, target)
    cost = RunCost(start.provenance, reader, target, grid_g_per_kwh)
    done = start.step

    def snapshot() -> Checkpoint:
        rows = np.array([[row.get(name, math.nan) for name in columns] for row in history], np.float64)
        slots = {name: value.detach().cpu() for name, value in state.items()}
        provenance = cost.provenance() if done > start.step else start.provenance
        kept = start.probe if probe is None else probe.state()
        return Checkpoint(recipe, start.input, done, slots, rows.reshape(-1, len(columns)), columns, provenance, kept)

    def save(found: Checkpoint) -> None:
        if checkpoint is not None and processes.rank == 0:
            found.save(checkpoint)

    clock = time.perf_counter()
    for portion in reader.batches(start.step, last):
        with cost.computing():
            t, done = portion.t, portion.t + 1
            hyper = {**step.hyper, "lr": step.hyper["lr"] * schedule(t, total, recipe.warmup, recipe.final_lr)}
            scalars = hyper_tensors(hyper, target)
            gradient = step.gradient(
                state,
                portion.samples.to(target, non_blocking=True),
                portion.noise.to(target, non_blocking=True),
                scalars,
                gather=processes.gather,
                autocast=autocast,
                chunk=recipe.chunk,
            )
            state, metrics = step.update(state, processes.reduce(gradient, step.layout), scalars)
            if probe is not None:
                probe.learn(processes.by_view(gradient.embeddings, recipe.batch_size), portion.indices)
        asked = should_stop() if processes.count == 1 else done % LOG_EVERY == 0 and processes.any(should_stop())
        stopping = asked or done == last
        if stopping or done % LOG_EVERY == 0:
            with cost.computing():
                figures = {name: float(value) for name, value in metrics.items()}
                figures |= watch(processes.by_view(gradient.embeddings, recipe.batch_size), recipe.batch_size)
            if probe is not None:
                figures["probe_accuracy"] = probe.accuracy()
            history.append({"step": float(done), **figures})
            cost.sample()
            if processes.rank == 0:
                rate = (done - start.step) * recipe.batch_size / (time.perf_counter() - clock)
                on_progress(Progress(done, total, figures, hyper["lr"], rate, collapse_warning(figures)))
        if stopping:
            break
        if done % save_every == 0:
            save(snapshot())
    final = snapshot()
    save(final)
    return final


def schedule(t: int, total: int, warmup: float, final: float) -> float:
    """Share of the learning rate at step `t` of `total`: a linear rise over `warmup`, then a cosine down to `final`."""
    rise = math.ceil(warmup * total)
    if t < rise:
        return (t + 1) / rise
    along = (t - rise) / max(1, total - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * along))


def _resume_or_start(recipe: Recipe, source: Source, path: Path | None) -> Checkpoint:
    if path is None or not path.exists():
        spec = input_spec(source)
        empty = np.zeros((0, len(COLUMNS)))
        state = build_step(recipe, spec).initial_state()
        return Checkpoint(recipe, spec, 0, state, empty, COLUMNS, _provenance(recipe, source))
    saved = Checkpoint.load(path)
    if saved.recipe != recipe:
        ours, theirs = recipe.model_dump(), saved.recipe.model_dump()
        differs = ", ".join(f"{k} {theirs[k]!r} -> {ours[k]!r}" for k in ours if ours[k] != theirs[k])
        raise ConfigError(f"{path} was trained with another recipe ({differs}); give another path, or delete it")
    if saved.provenance.get("data") != content_hash(source):
        raise ConfigError(f"{path} was trained on other data; give another path, or delete it")
    return saved


def _provenance(recipe: Recipe, source: Source) -> dict[str, Any]:
    return {
        "edgessl": edgessl.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "data": content_hash(source),
        "samples": len(source),
        "seed": recipe.seed,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _commit() -> str:
    """The commit of the source tree edgessl runs from; "" for an installed package."""
    root = Path(edgessl.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip()
