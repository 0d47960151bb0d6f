"""Training a spiking coder without labels: a flat seeded loop, resumable, and bit-exact when resumed on a CPU.

Batch order, crops, random codes and dropped spikes are functions of (seed, step), so that a checkpoint holds no
random-number state.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from edgessl.data.source import epoch_order
from edgessl.diagnostics import WATCHED, collapse_warning, watch
from edgessl.errors import ConfigError
from edgessl.objectives.functional import effective_rank, embedding_std
from edgessl.recipe import Part
from edgessl.step import METRICS
from neuromorphic.checkpoint import SpikingCheckpoint, spikes_hash
from neuromorphic.coder import SpikingPredictiveCoder
from neuromorphic.objectives import LocalObjective, build_objective
from neuromorphic.spike_data import SpikeSource

COLUMNS = ("step", *METRICS, *WATCHED, "rate")
LOG_EVERY = 10  # steps between rows of the history
BALANCE_SAMPLES = 64
BALANCE_RATE = 0.1
ADAM = (0.9, 0.999, 1e-8)  # Kingma and Ba 2015
SCHEDULE_END = 0.05  # share of the learning rate at the last step


class SpikingRecipe(BaseModel):
    """Everything that determines a run, given the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    encoder: Part = Field(Part(name="auto"), description="how the data become spikes")
    hidden: tuple[int, ...] = Field((256, 128), min_length=1, description="neurons per layer")
    cell: Literal["lif", "leaky", "liquid"] = "lif"
    objective: Part = Part(name="spiking_predictive")
    hyper: dict[str, float] = Field(default_factory=dict, description="overrides of the objective's scalars")
    du: int = Field(1023, ge=0, le=4095, description="decay of the current, of 4096")
    dv: int = Field(511, ge=0, le=4095, description="decay of the voltage, of 4096")
    learn_decays: bool = False
    learn_bias: bool = True
    bits: int | None = Field(None, ge=2, le=8, description="integers of so many bits from the start; none: floats")
    drop: float = Field(0.0, ge=0, lt=1, description="share of the input's spikes that the coder does not see")
    crop: int | None = Field(None, ge=2, description="steps of a random piece that training sees of each sample")
    batch_size: int = Field(64, ge=2)
    epochs: int = Field(5, ge=1)
    lr: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0)

    def coder(self, n_in: int) -> SpikingPredictiveCoder:
        """The coder before training, in floats."""
        return SpikingPredictiveCoder(
            n_in, self.hidden, cell=self.cell, du=self.du, dv=self.dv, learn_decays=self.learn_decays,
            learn_bias=self.learn_bias, seed=self.seed,
        )  # fmt: skip

    def local_objective(self) -> tuple[LocalObjective, dict[str, float]]:
        """The objective and the value of every scalar of it.

        Raises:
            ConfigError: an unknown name, option or scalar.
        """
        objective = build_objective(self.objective.name, self.objective.options)
        if unknown := sorted(set(self.hyper) - set(objective.hyper)):
            raise ConfigError(
                f"objective {objective.name!r} has no scalar {unknown[0]!r}; it has {', '.join(objective.hyper)}"
            )
        return objective, {**objective.hyper, **self.hyper}


def parse_spiking_recipe(values: dict[str, Any], where: str = "recipe") -> SpikingRecipe:
    """A recipe from plain values.

    Raises:
        ConfigError: unknown key, wrong type or a number out of range; the message names the key.
    """
    try:
        recipe = SpikingRecipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(SpikingRecipe.model_fields)
        raise ConfigError(f"{where}: {key}: {first['msg']} (found {first['input']!r}); keys are {known}") from None
    recipe.local_objective()
    return recipe


@dataclass(frozen=True)
class Progress:
    """One row of the live display; `metrics` holds the history's columns, the step aside."""

    step: int
    total: int
    metrics: dict[str, float]
    samples_per_second: float
    warning: str | None


def balanced(recipe: SpikingRecipe, source: SpikeSource) -> SpikingPredictiveCoder:
    """The recipe's coder at the weights training begins with: random spiking features, a baseline of their own.

    Weights are scaled so that each layer's mean activity on 64 samples is 0.1.
    """
    coder = recipe.coder(source.shape[1])
    order = epoch_order(len(source), recipe.seed, 0)[:BALANCE_SAMPLES]
    coder.balance(torch.from_numpy(source.take(np.sort(order))).float(), BALANCE_RATE)
    if recipe.bits is not None:
        coder.quantize(recipe.bits)
    return coder


def train(
    recipe: SpikingRecipe,
    source: SpikeSource,
    *,
    start: SpikingPredictiveCoder | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    stop_after: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> SpikingCheckpoint:
    """Train `recipe` on unlabelled spikes; `source.labels` is never read.

    Args:
        recipe: what to train and how.
        source: the spikes; at least one batch.
        start: weights to begin with instead of balanced random ones (quantisation-aware fine-tuning).
        checkpoint: file to write every `save_every` steps and at the end; if it exists, training resumes from it.
        save_every: steps between checkpoints.
        stop_after: stop (with a checkpoint) after this many steps in all.
        should_stop: asked after every step; True stops, with a checkpoint.
        on_progress: called every `LOG_EVERY` steps.

    Raises:
        ConfigError: the checkpoint belongs to another recipe or other data, there is less than one batch, or the recipe
            does not fit the data.
    """
    per_epoch = len(source) // recipe.batch_size
    if per_epoch == 0:
        raise ConfigError(f"batch_size {recipe.batch_size} is more than the {len(source)} samples there are")
    if recipe.crop is not None and recipe.crop > source.shape[0]:
        raise ConfigError(f"crop {recipe.crop} is more than the {source.shape[0]} steps of a sample")
    objective, hyper = recipe.local_objective()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        heads = objective.heads(source.shape[1], recipe.hidden)
    found = _resume(recipe, source, Path(checkpoint)) if checkpoint and Path(checkpoint).exists() else None
    if found is not None:
        coder, history, done = found.coder(), found.rows(), found.step
    else:
        coder, history, done = balanced(recipe, source) if start is None else copy.deepcopy(start), [], 0
        if start is not None and recipe.bits is not None:
            coder.quantize(recipe.bits)
    named = {f"coder.{k}": p for k, p in coder.named_parameters() if p.requires_grad}
    named |= {f"head.{k}": p for k, p in heads.named_parameters()}
    moments = {f"{which}.{k}": torch.zeros_like(p) for which in ("m", "v") for k, p in named.items()}
    if found is not None:
        with torch.no_grad():
            for k, p in heads.named_parameters():
                p.copy_(found.training[f"head.{k}"])
            moments = {k: found.training[k].clone() for k in moments}
    total = recipe.epochs * per_epoch
    last = total if stop_after is None else min(total, stop_after)
    history = [row for row in history if row["step"] % LOG_EVERY == 0 or row["step"] == total]

    def snapshot() -> SpikingCheckpoint:
        training = {f"head.{k}": p.detach().clone() for k, p in heads.named_parameters()} | moments
        return SpikingCheckpoint.of(recipe.model_dump(mode="json"), coder, source, done, history, COLUMNS, training)

    clock, first = time.perf_counter(), done
    for t in range(done, last):
        if t % per_epoch == 0 and t and recipe.bits is not None:
            coder.quantize(recipe.bits)  # the weights have moved: fit the scales again
        inputs = batch_of(recipe, source, t, per_epoch)
        seen = inputs if recipe.drop == 0 else inputs * _kept(recipe, t, inputs.shape)
        activities = coder(seen)
        loss = objective.loss(inputs, activities, heads, hyper)
        gradients = torch.autograd.grad(loss.value, list(named.values()))
        lr = recipe.lr * (SCHEDULE_END + (1 - SCHEDULE_END) * 0.5 * (1 + np.cos(np.pi * t / total)))
        _adam(named, gradients, moments, lr, t + 1)
        done = t + 1
        stopping = should_stop() or done == last
        if stopping or done % LOG_EVERY == 0:
            h = loss.embeddings
            norm = torch.sqrt(sum((g.double().square().sum() for g in gradients), torch.zeros((), dtype=torch.float64)))
            values = (loss.value.detach(), norm, embedding_std(h), effective_rank(h))
            figures = dict(zip(METRICS, map(float, values), strict=True)) | watch(h, len(h))
            figures["rate"] = float(np.mean([float(a.detach().mean()) for a in activities]))
            history.append({"step": float(done), **figures})
            rate = (done - first) * recipe.batch_size / (time.perf_counter() - clock)
            on_progress(Progress(done, total, figures, rate, collapse_warning(figures)))
        if stopping:
            break
        if checkpoint and done % save_every == 0:
            snapshot().save(checkpoint)
    final = snapshot()
    if checkpoint:
        final.save(checkpoint)
    return final


def batch_of(recipe: SpikingRecipe, source: SpikeSource, t: int, per_epoch: int) -> Tensor:
    """Input spikes of step `t`, `(batch_size, T, n)` float32: a function of recipe, data and t alone."""
    epoch, place = divmod(t, per_epoch)
    order = epoch_order(len(source), recipe.seed, epoch)
    chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
    spikes = source.take(chosen, draw=epoch + 1)
    if recipe.crop is not None:
        begins = np.random.default_rng([recipe.seed, t]).integers(0, spikes.shape[1] - recipe.crop + 1, len(spikes))
        spikes = np.stack([row[b : b + recipe.crop] for row, b in zip(spikes, begins, strict=True)])
    return torch.from_numpy(spikes).float()


def _kept(recipe: SpikingRecipe, t: int, shape: torch.Size) -> Tensor:
    """Which spikes the coder sees, `(N, T, n)` of 0 and 1."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + t)
    return (torch.rand(shape, generator=generator) >= recipe.drop).float()


@torch.no_grad()
def _adam(
    named: Mapping[str, Tensor], gradients: tuple[Tensor, ...], moments: dict[str, Tensor], lr: float, step: int
) -> None:
    """One step of Adam, in place; the moments are plain tensors, so that a checkpoint holds them."""
    beta1, beta2, eps = ADAM
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        m, v = moments[f"m.{name}"], moments[f"v.{name}"]
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.addcdiv_(m, (v / (1 - beta2**step)).sqrt() + eps, value=-float(lr) / (1 - beta1**step))


def _resume(recipe: SpikingRecipe, source: SpikeSource, path: Path) -> SpikingCheckpoint:
    saved = SpikingCheckpoint.load(path)
    ours = recipe.model_dump(mode="json")
    if saved.recipe != ours:
        theirs = saved.recipe
        differs = ", ".join(f"{k} {theirs.get(k)!r} -> {ours[k]!r}" for k in ours if ours[k] != theirs.get(k))
        raise ConfigError(f"{path} was trained with another recipe ({differs}); give another path, or delete it")
    if saved.provenance["data"] != spikes_hash(source):
        raise ConfigError(f"{path} was trained on other spikes; give another path, or delete it")
    return saved
