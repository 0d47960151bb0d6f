"""What is evaluated: a checkpoint or a bundle, with the same encoder at its initial weights beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.data.source import Source
from edgessl.device.bundle.archive import Bundle
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder, build_encoder
from edgessl.errors import ConfigError, DataError
from edgessl.evaluate.embedder import BundleEmbedder, Embedder, Int8Embedder, TorchEmbedder
from edgessl.objectives.clip import TwoProjections
from edgessl.recipe import build_step
from edgessl.step import TrainStep
from edgessl.views import Pipeline

Array = np.ndarray[Any, np.dtype[Any]]
Projection = Callable[[Array], tuple[Array, Array]]
"""Embeddings of pairs (N, D) -> both sides (N, P) in the space where the objective compares them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An encoder to evaluate.

    Attributes:
        path, kind: where it came from; "checkpoint" or "bundle".
        objective: how it was pretrained; names its row.
        input: what one sample is.
        embedders: row -> what embeds; the first is the float encoder.
        encoder: in torch, for gradients; None for a bundle, whose graphs have none.
        initial: builds the same encoder with the initial weights of its seed.
        views: the random views of pretraining; None where it had none.
        epochs, seed, weights: what the protocol says of the pretraining.
        provenance: as the file has it.
        projections: of the pretrained and of the initial weights, where the samples are pairs; else None.
        online: state of the linear probe that learned while pretraining ran; {} where there was none.
    """

    path: Path
    kind: str
    objective: str
    input: InputSpec
    embedders: dict[str, Embedder]
    encoder: Encoder | None
    initial: Callable[[], Encoder]
    views: Pipeline | None
    epochs: float | None
    seed: int
    weights: str
    provenance: dict[str, Any]
    projections: tuple[Projection, Projection] | None = None
    online: dict[str, torch.Tensor] = field(default_factory=dict)

    def check(self, source: Source, name: str) -> None:
        """Raise DataError unless `source` has the samples that the encoder takes."""
        if tuple(source.shape) != tuple(self.input.shape) or source.kind != self.input.kind:
            raise DataError(
                f"{name}: samples are {source.kind} {tuple(source.shape)}, {self.path} takes {self.input.kind} "
                f"{tuple(self.input.shape)}; give the data, and the --data options, of its pretraining"
            )

    def two_views(self, samples: Array, seed: int = 0) -> tuple[Array, Array] | None:
        """Two random views of `samples` (N, *shape), or None where pretraining had none."""
        if self.views is None:
            return None
        noise = np.random.default_rng(seed).random((2, len(samples), self.views.width), np.float32)
        with torch.no_grad():
            first, second = (self.views(torch.from_numpy(samples), torch.from_numpy(u)).numpy() for u in noise)
        return first, second


def open_subject(path: Path) -> Subject:
    """Open a checkpoint, or a bundle (a .edgessl file or a folder).

    Raises:
        DataError: missing, damaged, or neither; BundleError: a damaged bundle.
    """
    if path.is_dir() or _is_zip(path):
        return _of_bundle(path, Bundle.open(path))
    return subject_of(Checkpoint.load(path), path)


def subject_of(checkpoint: Checkpoint, path: Path) -> Subject:
    """The subject of a checkpoint, whose file may not be written yet."""
    recipe, step = checkpoint.recipe, checkpoint.train_step()
    encoder = step.parts.encoder.eval()
    epochs = _epochs(checkpoint.step, checkpoint.provenance, recipe.batch_size)
    complete = epochs == recipe.epochs
    objective = recipe.objective.name

    def initial() -> Encoder:
        fresh: Encoder = build_step(recipe, checkpoint.input).parts.encoder
        return fresh.eval()

    return Subject(
        path=path,
        kind="checkpoint",
        objective=objective,
        input=checkpoint.input,
        embedders={objective: TorchEmbedder(encoder)},
        encoder=encoder,
        initial=initial,
        views=step.views.pipeline if step.views.pipeline.width else None,
        epochs=epochs,
        seed=recipe.seed,
        weights="last epoch" if complete else f"step {checkpoint.step}, before the last of {recipe.epochs} epochs",
        provenance=checkpoint.provenance,
        projections=_projections(step, build_step(recipe, checkpoint.input)),
        online=checkpoint.probe,
    )


def _projections(pretrained: TrainStep, initial: TrainStep) -> tuple[Projection, Projection] | None:
    def projection(projector: TwoProjections) -> Projection:
        @torch.no_grad()
        def project(embeddings: Array) -> tuple[Array, Array]:
            first, second = projector(torch.from_numpy(embeddings)).chunk(2, dim=1)
            return first.numpy(), second.numpy()

        return project

    before, after = (getattr(step.parts, "projector", None) for step in (initial, pretrained))
    if isinstance(before, TwoProjections) and isinstance(after, TwoProjections):
        return projection(after), projection(before)
    return None


def _of_bundle(path: Path, bundle: Bundle) -> Subject:
    m = bundle.manifest
    seed = int(m.provenance.get("seed", 0))
    pipeline = Pipeline.from_json([view.to_json() for view in m.views], m.input.shape)

    def initial() -> Encoder:
        try:
            options = {"mean": m.input.mean, "std": m.input.std, "seed": seed, **m.encoder.options}
            return build_encoder(m.encoder.name, m.input.shape, **options).eval()
        except (ConfigError, TypeError) as error:
            raise DataError(f"{path}: its encoder cannot be built again for a reference ({error})") from error

    embedders: dict[str, Embedder] = {m.objective.name: BundleEmbedder(bundle)}
    if "encoder_int8" in m.graphs:
        embedders[f"{m.objective.name}, int8"] = Int8Embedder(bundle)
    return Subject(
        path=path,
        kind="bundle",
        objective=m.objective.name,
        input=m.input,
        embedders=embedders,
        encoder=None,
        initial=initial,
        views=pipeline if pipeline.width else None,
        epochs=None,
        seed=seed,
        weights=f"as exported, after step {m.provenance.get('pretraining_steps', 'unknown')}",
        provenance=dict(m.provenance),
    )


def _epochs(step: int, provenance: dict[str, Any], batch_size: int) -> float | None:
    """Passes over the data after `step` steps; each pass leaves out what does not fill a batch."""
    per_epoch = int(provenance.get("samples", 0)) // batch_size
    return step / per_epoch if per_epoch else None


def _is_zip(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
