"""Pretraining: a flat loop around the pure step; resumable, and bit-exact when resumed on a CPU.

Batch order and noise are functions of (seed, step), so a checkpoint needs no random-number state.
"""

from __future__ import annotations

import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgessl
from edgessl.checkpoint import Checkpoint
from edgessl.data.source import Source, channel_statistics, content_hash, epoch_order
from edgessl.device.noise import step_noise
from edgessl.device.specs import InputSpec
from edgessl.distributed import Processes
from edgessl.errors import ConfigError
from edgessl.recipe import Recipe, build_step
from edgessl.step import METRICS, hyper_tensors

LOG_EVERY = 10  # steps between rows of the history
COLLAPSE_STD = 0.05  # embedding_std below which the embeddings have all but collapsed to a point
COLLAPSE_RANK = 1.5  # effective_rank below which they have collapsed to a line


@dataclass(frozen=True)
class Progress:
    """One row of the live display."""

    step: int
    total: int
    metrics: dict[str, float]
    lr: float
    samples_per_second: float
    warning: str | None


def input_spec(source: Source) -> InputSpec:
    """What one sample of `source` is, with the channel statistics that the encoder normalises by."""
    mean, std = channel_statistics(source)
    return InputSpec(source.kind, tuple(source.shape), tuple(map(float, mean)), tuple(map(float, std)), source.units)


def pretrain(
    recipe: Recipe,
    source: Source,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    device: str = "cpu",
    stop_after: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Checkpoint:
    """Train `recipe` on the unlabelled samples of `source`; labels are never read.

    Args:
        recipe: what to train and how.
        source: the data; at least one batch.
        checkpoint: file to write every `save_every` steps and at the end; if it exists, training resumes from it.
        save_every: steps between checkpoints.
        device: "cpu", "cuda" or "cuda:N". Under `torchrun`, "cuda" is this process's GPU.
        stop_after: stop (with a checkpoint) after this many steps in all, as a pre-empted run would.
        on_progress: called every `LOG_EVERY` steps on the first process.

    Returns:
        The final checkpoint (the same on every process).

    Raises:
        ConfigError: the checkpoint belongs to another recipe, or there is less than one batch of data.
    """
    target = torch.device(device)
    processes = Processes.from_environment(target)
    if target.type == "cuda":
        target = torch.device("cuda", target.index if target.index is not None else processes.rank)
        torch.cuda.set_device(target)
    start = _resume_or_start(recipe, source, Path(checkpoint) if checkpoint is not None else None)
    step = build_step(recipe, start.input)
    if recipe.compile:
        step.compile()
    per_epoch = len(source) // recipe.batch_size
    if per_epoch == 0:
        raise ConfigError(f"batch_size {recipe.batch_size} is more than the {len(source)} samples there are")
    total = recipe.epochs * per_epoch
    last = total if stop_after is None else min(total, stop_after)
    state = {name: value.to(target) for name, value in start.state.items()}
    history = [list(row) for row in start.history]
    autocast = torch.bfloat16 if recipe.precision == "bfloat16" else None
    mine = processes.share(recipe.batch_size)

    def snapshot(t: int) -> Checkpoint:
        rows = np.asarray(history, np.float64).reshape(-1, 1 + len(METRICS))
        slots = {name: value.detach().cpu() for name, value in state.items()}
        return Checkpoint(recipe, start.input, t, slots, rows, start.provenance)

    def save(t: int) -> None:
        if checkpoint is not None and processes.rank == 0:
            snapshot(t).save(checkpoint)

    clock = time.perf_counter()
    for t, samples in _batches(source, recipe, start.step, last, mine):
        hyper = {**step.hyper, "lr": step.hyper["lr"] * schedule(t, total, recipe.warmup, recipe.final_lr)}
        noise = step_noise(recipe.seed, t, step.noise_shape(recipe.batch_size))[mine]
        scalars = hyper_tensors(hyper, target)
        gradient = step.gradient(
            state,
            torch.from_numpy(samples).to(target, non_blocking=True),
            torch.from_numpy(noise).to(target, non_blocking=True),
            scalars,
            gather=processes.gather,
            autocast=autocast,
        )
        state, metrics = step.update(state, processes.reduce(gradient, step.layout), scalars)
        if (t + 1) % LOG_EVERY == 0 or t + 1 == last:
            values = {name: float(value) for name, value in metrics.items()}
            history.append([t + 1, *(values[name] for name in METRICS)])
            if processes.rank == 0:
                rate = (t + 1 - start.step) * recipe.batch_size / (time.perf_counter() - clock)
                on_progress(Progress(t + 1, total, values, hyper["lr"], rate, collapse_warning(values)))
        if (t + 1) % save_every == 0 and t + 1 < last:
            save(t + 1)
    save(max(last, start.step))
    return snapshot(max(last, start.step))


def schedule(t: int, total: int, warmup: float, final: float) -> float:
    """Share of the learning rate at step `t` of `total`: a linear rise over `warmup`, then a cosine down to `final`."""
    rise = math.ceil(warmup * total)
    if t < rise:
        return (t + 1) / rise
    along = (t - rise) / max(1, total - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * along))


def collapse_warning(metrics: dict[str, float]) -> str | None:
    """What is wrong with the embeddings, in words, or None."""
    if not all(math.isfinite(value) for value in metrics.values()):
        return "the loss or its gradient is not finite: lower the learning rate"
    if metrics["embedding_std"] < COLLAPSE_STD:
        return f"embeddings are collapsing to a point (std {metrics['embedding_std']:.3f} of 1)"
    if metrics["effective_rank"] < COLLAPSE_RANK:
        return f"embeddings are collapsing to a line (effective rank {metrics['effective_rank']:.2f})"
    return None


def _resume_or_start(recipe: Recipe, source: Source, path: Path | None) -> Checkpoint:
    if path is None or not path.exists():
        spec = input_spec(source)
        empty = np.zeros((0, 1 + len(METRICS)))
        return Checkpoint(recipe, spec, 0, build_step(recipe, spec).initial_state(), empty, _provenance(recipe, source))
    saved = Checkpoint.load(path)
    if saved.recipe != recipe:
        ours, theirs = recipe.model_dump(), saved.recipe.model_dump()
        differs = ", ".join(f"{k} {theirs[k]!r} -> {ours[k]!r}" for k in ours if ours[k] != theirs[k])
        raise ConfigError(f"{path} was trained with another recipe ({differs}); give another path, or delete it")
    if saved.provenance.get("data") != content_hash(source):
        raise ConfigError(f"{path} was trained on other data; give another path, or delete it")
    return saved


def _batches(
    source: Source, recipe: Recipe, first: int, last: int, rows: slice
) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.float32]]]]:
    """`(t, rows of batch t)` for steps `first` to `last`, read one batch ahead in a thread."""
    per_epoch = len(source) // recipe.batch_size

    def read(t: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        order = epoch_order(len(source), recipe.seed, t // per_epoch)
        start = (t % per_epoch) * recipe.batch_size
        return source.take(order[start : start + recipe.batch_size][rows])

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, first) if first < last else None
        for t in range(first, last):
            assert ahead is not None
            samples = ahead.result()
            ahead = reader.submit(read, t + 1) if t + 1 < last else None
            yield t, samples


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
