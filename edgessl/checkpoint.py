"""Checkpoints: one safetensors file with the state, the history, the recipe and the input spec. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgessl.device import tensors
from edgessl.device.files import write_atomically
from edgessl.device.specs import InputSpec
from edgessl.encoders import Encoder
from edgessl.errors import BundleError, ConfigError, DataError, FormatError
from edgessl.recipe import Recipe, build_step, parse_recipe
from edgessl.step import METRICS, TrainStep

_FORMAT = "edgessl-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """Pretraining after `step` steps.

    Attributes:
        recipe: how it is trained.
        input: what one sample is.
        step: steps taken so far.
        state: every slot by name, CPU tensors.
        history: `(rows, 1 + len(METRICS))` float64: step number, then the metrics.
        provenance: versions, commit, data hash: strings and numbers.
    """

    recipe: Recipe
    input: InputSpec
    step: int
    state: dict[str, torch.Tensor]
    history: np.ndarray[Any, np.dtype[np.float64]]
    provenance: dict[str, Any] = field(default_factory=dict)

    def train_step(self) -> TrainStep:
        """The training step, its encoder holding this checkpoint's weights."""
        step = build_step(self.recipe, self.input)
        step.layout.load_module(step.parts, self.state["theta"])
        return step

    def encoder(self) -> Encoder:
        """The encoder with this checkpoint's weights, in evaluation mode."""
        encoder: Encoder = self.train_step().parts.encoder
        return encoder.eval()

    def save(self, path: str | Path) -> None:
        """Write to `path` atomically (temporary file, fsync, rename)."""
        arrays = {f"slot.{name}": value.numpy() for name, value in self.state.items()}
        arrays["history"] = self.history
        metadata = {
            "format": _FORMAT,
            "recipe": self.recipe.model_dump_json(),
            "input": json.dumps(self.input.to_json()),
            "step": str(self.step),
            "provenance": json.dumps(self.provenance),
        }
        metadata["sha256"] = _digest(arrays, metadata)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(target, tensors.dumps(arrays, metadata))
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            DataError: missing, damaged, or not a checkpoint of this version.
        """
        try:
            arrays, metadata = tensors.loads(Path(path).read_bytes())
            if metadata.get("format") != _FORMAT:
                raise FormatError(f"format is {metadata.get('format')!r}, expected {_FORMAT!r}")
            if metadata.pop("sha256", "") != _digest(arrays, metadata):
                raise FormatError("SHA-256 disagrees with the content: the file was altered or damaged")
            recipe = parse_recipe(json.loads(metadata["recipe"]), str(path))
            spec = InputSpec.from_json(json.loads(metadata["input"]))
            history = arrays.pop("history")
            state = {name.removeprefix("slot."): torch.from_numpy(value) for name, value in arrays.items()}
            if history.ndim != 2 or history.shape[1] != 1 + len(METRICS) or "theta" not in state:
                raise FormatError("history or theta is missing")
            return cls(recipe, spec, int(metadata["step"]), state, history, json.loads(metadata["provenance"]))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        except (FormatError, ConfigError, BundleError, KeyError, ValueError) as error:
            raise DataError(f"{path}: not a readable edgessl checkpoint: {error}") from None


def _digest(arrays: dict[str, Any], metadata: dict[str, str]) -> str:
    return hashlib.sha256(tensors.dumps(arrays, metadata)).hexdigest()
