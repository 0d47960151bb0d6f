"""Checkpoints: one safetensors file with the state, the history, the recipe and the input spec. No pickle anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgessl.checkpoint_file import read_checkpoint, write_checkpoint
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder
from edgessl.errors import BundleError, ConfigError, DataError
from edgessl.recipe import Recipe, build_step, parse_recipe
from edgessl.step import TrainStep


@dataclass(frozen=True)
class Checkpoint:
    """Pretraining after `step` steps.

    Attributes:
        recipe: how it is trained.
        input: what one sample is.
        step: steps taken so far.
        state: every slot by name, CPU tensors.
        history: `(rows, len(columns))` float64; NaN where a figure does not exist.
        columns: what the history's columns are; "step" first.
        provenance: versions, commit, data hash, and what the run cost (time, memory, energy).
        probe: state of the online probe; {} where there was none.
    """

    recipe: Recipe
    input: InputSpec
    step: int
    state: dict[str, torch.Tensor]
    history: np.ndarray[Any, np.dtype[np.float64]]
    columns: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, torch.Tensor] = field(default_factory=dict)

    def train_step(self) -> TrainStep:
        """The training step, its encoder holding this checkpoint's weights."""
        step = build_step(self.recipe, self.input)
        step.layout.load_module(step.parts, self.state["theta"])
        return step

    def encoder(self) -> Encoder:
        """The encoder with this checkpoint's weights, in evaluation mode."""
        encoder: Encoder = self.train_step().parts.encoder
        return encoder.eval()

    def rows(self) -> list[dict[str, float]]:
        """The history as one dict per row, "step" first."""
        return [dict(zip(self.columns, map(float, row), strict=True)) for row in self.history]

    def save(self, path: str | Path) -> None:
        """Write to `path` atomically (temporary file, fsync, rename).

        Raises:
            DataError: the disk refuses.
        """
        groups = {"slot": self.state, "probe": self.probe}
        arrays = {f"{group}.{name}": t.numpy() for group, named in groups.items() for name, t in named.items()}
        documents = {
            "recipe": self.recipe.model_dump(mode="json"),
            "input": self.input.to_json(),
            "columns": list(self.columns),
            "provenance": self.provenance,
        }
        write_checkpoint(Path(path), {**arrays, "history": self.history}, self.step, documents)

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            DataError: missing, damaged, or not a checkpoint of this version.
        """
        arrays, step, documents = read_checkpoint(Path(path))
        history = arrays.pop("history")
        named = {name: torch.from_numpy(value) for name, value in arrays.items()}
        state, probe = (
            {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
            for prefix in ("slot.", "probe.")
        )
        try:
            recipe = parse_recipe(documents["recipe"], str(path))
            spec = InputSpec.from_json(documents["input"])
        except (ConfigError, BundleError, ValueError) as error:
            raise DataError(f"{path}: not a readable edgessl checkpoint: {error}") from None
        return cls(recipe, spec, step, state, history, tuple(documents["columns"]), documents["provenance"], probe)
